"""The checks of settings that come before any model library is imported.

The method's name is checked before torch is imported as well, which takes two seconds.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.config import TEACHER_GUIDANCE, Config, FakeSettings, TrainSettings, load_config
from fewstep.console import say_loading
from fewstep.errors import SettingError
from fewstep.methods import METHODS
from fewstep.strict import from_tables

if TYPE_CHECKING:
    from fewstep.methods import Method


def read_settings(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read and check a TOML file's settings, with overrides of the form "table.key=value".

    Between the checks that need torch and the others it says that it loads.

    Raises:
        SettingError: see `load_config` and `check_settings`.
    """
    config = load_config(path, overrides)
    method_name(config.method)
    say_loading()
    check_settings(config)
    return config


def check_settings(config: Config) -> None:
    """Check the method, its guidance, what is quantised and the trackers.

    Raises:
        SettingError: naming the setting, its value and what to use instead.
    """
    build_method(config.method)
    teacher_guidance(config)
    fake_settings(config)
    if config.adapter is None and config.model.quantize != "none":
        raise SettingError(
            f"model.quantize is {config.model.quantize!r}, and without [adapter] the network's own "
            "weights are trained, in fp32: add [adapter], or leave model.quantize out"
        )
    if config.adapter is None and config.train.ema and config.train.ema_precision == "bf16":
        raise SettingError(
            "train.ema_precision is 'bf16', and without [adapter] the average is a whole network, "
            "which is kept in fp32: add [adapter], leave it out, or set train.ema = 0"
        )
    for name in config.train.trackers:
        if importlib.util.find_spec(name) is None or not _is_known_to_accelerate(name):
            raise SettingError(
                f"train.trackers has {name!r}, which is not installed, or accelerate is too old "
                f"for it: pip install 'fewstep[{name}]', or leave it out"
            )


def build_method(settings: Mapping[str, Any]) -> tuple[str, "Method"]:
    """Return the name and the method that the table [method] asks for.

    Raises:
        SettingError: if the name or a field is unknown, or a value cannot be used.
    """
    name = method_name(settings)
    fields = {field: value for field, value in settings.items() if field != "name"}
    return name, from_tables(METHODS[name], fields, "method.")


def method_name(settings: Mapping[str, Any]) -> str:
    """Return the name in the table [method].

    Raises:
        SettingError: if there is none, or no method has it.
    """
    name = settings.get("name")
    if not isinstance(name, str) or name not in METHODS:
        raise SettingError(f"method.name is {name!r}; known: {', '.join(METHODS)}")
    return name


def teacher_guidance(config: Config) -> float:
    """Return the teacher's guidance scale; it is 1 for a method without a teacher.

    Raises:
        SettingError: if a scale is set for a method that would not use it.
    """
    (name, method), scale = build_method(config.method), config.teacher.guidance_scale
    if method.has_teacher:
        return TEACHER_GUIDANCE if scale is None else scale
    if scale not in (None, 1.0):
        raise SettingError(
            f"teacher.guidance_scale is {scale}, but {name} learns from data and not from a "
            "teacher: leave it out, or choose a method that distils one (cd, multi-boundary-cd)"
        )
    return 1.0


def fake_settings(config: Config) -> FakeSettings | None:
    """Return the table [fake] with every default filled in; None for a method without a fake score.

    Raises:
        SettingError: if the table would do nothing, the fake's rank is below the student's, or
            the method has a fake score and there is no [adapter].
    """
    (name, method), fake, adapter = build_method(config.method), config.fake, config.adapter
    from fewstep.methods import LearnsFake  # torch loads here at the latest

    if not isinstance(method, LearnsFake):
        if fake is not None:
            raise SettingError(
                f"[fake] is set, but {name} trains no fake score: leave the table out, or set "
                "method.name = 'trajectory-matching'"
            )
        return None
    if adapter is None:
        raise SettingError(
            f"there is no [adapter], and {name} trains student and fake score as LoRAs on one "
            "frozen base: add [adapter], with a rank"
        )
    fake = fake or FakeSettings()
    rank = adapter.rank if fake.rank is None else fake.rank
    if rank < adapter.rank:
        raise SettingError(
            f"fake.rank is {rank} and adapter.rank {adapter.rank}: a fake score of lower rank "
            f"cannot follow the student; use {adapter.rank} or more, or leave fake.rank out"
        )
    return replace(fake, rank=rank, learning_rate=fake.learning_rate or config.train.learning_rate)


def check_batch(train: TrainSettings, path: str, num_pairs: int, num_processes: int) -> None:
    """Raise a SettingError if a step takes more samples than there are pairs at `path`."""
    count = train.batch_size * train.accumulate * num_processes
    if count > num_pairs:
        several = f", {num_processes} processes" if num_processes > 1 else ""
        raise SettingError(
            f"a step takes {count} samples (train.batch_size = {train.batch_size}, "
            f"train.accumulate = {train.accumulate}{several}), and data.path {path!r} has "
            f"{num_pairs} pairs: lower these, or give more pairs"
        )


def _is_known_to_accelerate(tracker: str) -> bool:
    from accelerate.utils import LoggerType

    return tracker in LoggerType

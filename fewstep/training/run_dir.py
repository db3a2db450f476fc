"""The folder of a run: whose it is, and its log."""

import dataclasses
import hashlib
import json
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fewstep.config import Config, SettingError, load_config, to_toml
from fewstep.files import write_file
from fewstep.models.base import ModelFamily
from fewstep.training.contract import versions
from fewstep.training.loop import StepResult
from fewstep.training.setup import build_method

HARMLESS = {
    "train.save_every",
    "train.keep_last",
    "train.preview_every",
    "train.preview_prompts",
    "train.trackers",
    "train.checkpointing",
    "model.allow_pickle",
    "data.cache",
    "data.workers",
    "data.max_skipped",
}
"""Settings that may change between the parts of one run: they decide no more than rounding."""

DIVISION = {"train.batch_size", "train.accumulate", "train.processes"}
"""How a step's samples are divided up: it decides nothing but which of them drop out together."""


def claim_run_folder(config: Config, run: Path) -> None:
    """Make the run folder with its resolved config, or check that the one there is of this run.

    Raises:
        SettingError: if it belongs to a run with other settings; they are named.
    """
    path = run / "config.toml"
    if not path.exists():
        header = ", ".join(f"{name} {version}" for name, version in versions().items())
        write_file(path, f"# {header}\n{to_toml(config)}")
        return
    there = load_config(path)
    _, method = build_method(there.method)  # what is newer than that run has its default
    known = dataclasses.asdict(method)  # type: ignore[call-overload]
    mine = _decisive(config)
    theirs = _decisive(dataclasses.replace(there, method=known | dict(there.method)))
    differing = [
        f"{key} = {theirs.get(key)!r} there, {mine.get(key)!r} here"
        for key in sorted(mine.keys() | theirs.keys())
        if mine.get(key) != theirs.get(key)
    ]
    if differing:
        raise SettingError(
            f"{run} belongs to another run ({'; '.join(differing)}); choose another --run folder, "
            "or delete this one"
        )


def claim_data(run: Path, identity: str) -> None:
    """Keep in the run's folder which data it learns from, or check that they are still those.

    Raises:
        SettingError: if they have changed.
    """
    if not _is_same(path := run / "data.sha256", identity):
        raise SettingError(
            f"{run} has learnt from other data: images, captions, or the times of their files "
            "have changed since; choose another --run folder, or, if they were only copied, delete "
            f"{path}"
        )


def claim_base(run: Path, family: ModelFamily, codec: Mapping[str, Any]) -> None:
    """Keep in the run's folder what its base is, or check that it is still that.

    `codec` is what turns images and captions into latents and texts.

    Raises:
        SettingError: if a part has changed; it is named.
    """
    prediction = family.scheduler_config.get("prediction_type", "epsilon")
    parts = {
        "base": ("weights or noise levels", f"{family.fingerprint} {family.schedule.digest}"),
        "codec": ("VAE, text encoder or tokenizer", json.dumps(codec, sort_keys=True)),
        "prediction": ("prediction type", prediction),
    }
    for name, (what, identity) in parts.items():
        if not _is_same(run / f"{name}.sha256", identity):
            raise SettingError(
                f"{run} was started from another base: the {what} of model.base changed since; "
                "choose another --run folder, or put the old ones back"
            )


def _is_same(path: Path, identity: str) -> bool:
    """Whether a digest that is kept is of `identity`; where none is kept it is from now on."""
    mine = hashlib.sha256(identity.encode()).hexdigest()
    if not path.exists():
        write_file(path, f"{mine}\n")
    return path.read_text(encoding="utf-8").strip() == mine


def _decisive(config: Config) -> dict[str, Any]:
    """Return what decides the weights: how a step's samples are divided up only with dropout."""
    train, adapter = config.train, config.adapter
    samples = train.batch_size * train.accumulate * (train.processes or 1)
    harmless = HARMLESS if adapter and adapter.dropout else HARMLESS | DIVISION
    decisive = {key: value for key, value in flat(config).items() if key not in harmless}
    return decisive | {"samples a step (train.batch_size x accumulate x processes)": samples}


def flat(config: Config) -> dict[str, Any]:
    """Return every setting by its dotted name."""
    return {
        f"{table}.{key}": value
        for table, values in dataclasses.asdict(config).items()
        for key, value in (values or {}).items()
    }


def truncate_log(path: Path, last_step: int) -> None:
    """Drop what was logged after the checkpoint that training continues from."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines[:last_step] if line.endswith("\n")]
        if kept != lines:
            write_file(path, "".join(kept))


def log_entry(result: StepResult, global_batch: int, seconds: float) -> dict[str, Any]:
    """Return a line of metrics.jsonl."""
    entry = {k: float(f"{v:.6g}") if isinstance(v, float) else v
             for k, v in dataclasses.asdict(result).items()}  # fmt: skip
    return entry | {"images_per_second": round(global_batch / seconds, 3), "memory": peak_memory()}


def peak_memory() -> int:
    """Return the most bytes used, of the GPU's allocator or else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

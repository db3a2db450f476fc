"""The settings that make a run need less memory, and the order in which they are tried."""

from collections.abc import Sequence
from dataclasses import replace

from fewstep.config import Config

Changes = dict[str, object]
"""Settings by their dotted names, and the values that they are to have."""

CHECKPOINTING = ("none", "selective", "full")
LIGHTER = {
    "train.optimizer": ("adamw", "adamw8bit"),
    "train.ema_precision": ("fp32", "bf16"),
    "model.quantize": ("none", "int8", "nf4"),
}
"""The settings by which what stands takes less: the later, the more the student is changed."""


def changed_by(config: Config, changes: Changes) -> Config:
    """Return the config with settings changed."""
    for setting, value in changes.items():
        table, name = setting.split(".")
        config = replace(config, **{table: replace(getattr(config, table), **{name: value})})
    return config


def smaller(config: Config) -> list[Changes]:
    """Return what makes a step smaller and its gradient no other: nothing, then the fastest first.

    Each has the changes of the ones before.
    """
    train, found = config.train, [Changes()]
    for kind in _beyond(CHECKPOINTING, train.checkpointing):
        found.append(found[-1] | {"train.checkpointing": kind})
    batch, accumulate = train.batch_size, train.accumulate
    while batch > 1:
        batch, accumulate = batch // 2, accumulate * 2
        found.append(found[-1] | {"train.batch_size": batch, "train.accumulate": accumulate})
    return found


def lighter(config: Config) -> list[Changes]:
    """Return what lets less stand between two steps: nothing, then in the order of LIGHTER.

    Each has the changes of the ones before. Without [adapter] the network's own weights are
    trained, and only its optimiser has fewer bits.
    """
    found = [Changes()]
    for setting, kinds in LIGHTER.items():
        table, name = setting.split(".")
        is_used = config.train.ema > 0 if name == "ema_precision" else True
        if is_used and (config.adapter or name == "optimizer"):
            for kind in _beyond(kinds, getattr(getattr(config, table), name)):
                found.append(found[-1] | {setting: kind})
    return found


def one_by_one(changes: Changes) -> list[tuple[str, Changes]]:
    """Return each setting in words, and the changes up to it; what keeps a batch's size is one.

    >>> one_by_one({"train.batch_size": 1, "train.accumulate": 8, "adapter.rank": 4})[0][0]
    'train.batch_size = 1, train.accumulate = 8'
    """
    groups: list[Changes] = []
    for setting, value in changes.items():
        if setting == "train.accumulate":
            groups[-1][setting] = value
        else:
            groups.append({setting: value})
    found, so_far = [], Changes()
    for group in groups:
        so_far = so_far | group
        found.append((in_words(group), so_far))
    return found


def in_words(changes: Changes) -> str:
    """Return settings as they are written on a command line, one after another."""
    return ", ".join(f"{setting} = {value}" for setting, value in changes.items())


def _beyond(kinds: Sequence[str], now: str) -> Sequence[str]:
    return kinds[kinds.index(now) + 1 :]

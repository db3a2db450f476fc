"""What a run needs beside what the machine has: refused before it starts, explained if it fails."""

import json
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fewstep.config import Config
from fewstep.distributed import number_started_here
from fewstep.errors import UserError, is_out_of_memory
from fewstep.models.loading import bundled_folder
from fewstep.models.memory import available_memory, in_words
from fewstep.student.unfinished import saved_checkpoints
from fewstep.training.changes import Changes, changed_by, lighter, smaller
from fewstep.training.changes import in_words as settings_in_words
from fewstep.training.gpus import CONTEXT, GIB, Gpu, this_gpu
from fewstep.training.plan import Needs, needs_of, preparing_peaks, skeleton

PER_PIXEL = 2**15
"""Bytes of activations that no step takes for a pixel of its batch: several times SD's in fp32."""

FORCE = "--force tries it as it is"


@dataclass(frozen=True)
class Room:
    """The bytes that a run can have, and what they are a part of."""

    name: str
    bytes: float
    on_cpu: bool = False

    @classmethod
    def of(cls, gpu: Gpu) -> "Room":
        """Return what a GPU has for tensors."""
        return cls(f"a {gpu.name}", gpu.gib * GIB - CONTEXT)

    @classmethod
    def here(cls, device: torch.device | str) -> "Room":
        """Return what is free now for each process on this machine's device."""
        if torch.device(device).type == "cuda":
            free = torch.cuda.mem_get_info(device)[0]
            return cls(f"the {this_gpu(device).name}, of which {in_words(free)} are free", free)
        free, count = available_memory(), number_started_here()
        each = f" for each of {count} processes" if count > 1 else ""
        name = f"this machine's main memory, of which {in_words(free / count)} are free{each}"
        return cls(name, free / count, on_cpu=True)

    def fits(self, needs: Needs) -> bool:
        """Return whether a run's peak is within it."""
        return needs.peak_bytes <= self.bytes


def is_surely_small(config: Config, room: Room) -> bool:
    """Return whether a generous bound fits, from sizes of files alone: counting takes seconds."""
    base = bundled_folder() if config.model.base == "bundled" else Path(config.model.base)
    try:
        network = json.loads((base / "unet/config.json").read_text())
        side = config.data.resolution or 8 * int(network["sample_size"])
        weights = sum(file.stat().st_size for file in base.rglob("*") if file.is_file()) // 2
    except (OSError, ValueError, KeyError, TypeError):
        return False
    ranks = (config.adapter.rank if config.adapter else 1, (config.fake and config.fake.rank) or 0)
    return (
        64 * weights * max(1, *ranks) + config.train.batch_size * side**2 * PER_PIXEL < room.bytes
    )


def needs(config: Config, on_cpu: bool) -> Needs:
    """Count what a run needs of its device."""
    return needs_of(skeleton(config, on_cpu), on_cpu)


def advice(config: Config, planned: Needs, room: Room) -> str:
    """Return whether a run fits and, where it does not, the first change that makes it."""
    if room.fits(planned):
        return f"fits {room.name}"
    return advised(room, change_that_fits(config, room))


def advised(room: Room, changes: Changes | None) -> str:
    """Return that a run does not fit, and what makes it, in words."""
    if changes is not None:
        return f"does not fit {room.name}; it does with {settings_in_words(changes)}"
    return (
        f"does not fit {room.name}, whatever its batch and rank: lower data.resolution, or use a "
        "smaller model or more memory"
    )


def change_that_fits(config: Config, room: Room) -> Changes | None:
    """Return the settings that make a run fit, None where none do.

    Those that change no gradient are tried first, then those by which less stands between two
    steps; a lower rank is the last.
    """

    def fits(changes: Changes) -> bool:
        return room.fits(needs(changed_by(config, changes), room.on_cpu))

    steps, levels = smaller(config), lighter(config)
    smallest = steps[-1]
    level = bisect_left(levels, True, key=lambda less: fits(smallest | less))
    if level < len(levels):
        found = [step | levels[level] for step in steps]
        return found[bisect_left(found[:-1], True, key=fits)]
    for changes in (Changes(), smallest | levels[-1]):
        if rank := rank_that_fits(changed_by(config, changes), room):
            return changes | {"adapter.rank": rank}
    return None


def rank_that_fits(config: Config, room: Room) -> int | None:
    """Return a power of two that is lower than the rank and fits, if there is one."""
    if config.adapter is None:
        return None
    planned, rank = needs(config, room.on_cpu), config.adapter.rank
    by_rank = planned.cost.adapters + planned.cost.optimizer + planned.cost.gradients
    left = room.bytes - (planned.peak_bytes - by_rank)
    lower = 2 ** (max(0, int(rank * left / by_rank)).bit_length() - 1)
    fake = config.fake and replace(config.fake, rank=None)
    for candidate in (int(lower), int(lower / 2)):  # what else grows with the rank is not counted
        adapter = replace(config.adapter, rank=max(1, candidate))
        other = replace(config, adapter=adapter, fake=fake)
        if 1 <= candidate < rank and room.fits(needs(other, room.on_cpu)):
            return candidate
    return None


def check_memory(config: Config, device: torch.device | str) -> None:
    """Refuse a run that this machine has no memory for, before anything is loaded.

    Raises:
        UserError: with the settings that lower it.
    """
    room, on_cpu = Room.here(device), torch.device(device).type == "cpu"
    if is_surely_small(config, room):
        return
    planned = needs(config, on_cpu)
    if not room.fits(planned):
        part = max(planned.peaks, key=lambda name: planned.peaks[name])
        raise UserError(
            f"{part} takes {in_words(planned.peak_bytes)}, which {advice(config, planned, room)}; "
            f"{FORCE}"
        )
    if not on_cpu:
        check_main_memory(planned.main_bytes, "loading and saving take")


def check_preparing(config: Config, device: torch.device | str) -> None:
    """Refuse to encode data that this machine has no memory for, before anything is loaded.

    Raises:
        UserError: with the settings that lower it.
    """
    room, on_cpu = Room.here(device), torch.device(device).type == "cpu"
    if is_surely_small(config, room):
        return
    peaks = preparing_peaks(skeleton(config, on_cpu))
    part = max(peaks, key=lambda name: peaks[name])
    if peaks[part] > room.bytes and (on_cpu or part == "encoding the data"):
        raise UserError(
            f"{part} takes {in_words(peaks[part])}, which does not fit {room.name}: lower "
            f"data.resolution, or use a smaller model or more memory; {FORCE}"
        )
    if not on_cpu:
        check_main_memory(peaks["loading the model"], "loading the model takes")


def check_main_memory(needed: int, what: str) -> None:
    """Refuse what a machine with a GPU has too little main memory for."""
    room = Room.here("cpu")
    if needed > room.bytes:
        raise UserError(
            f"{what} {in_words(needed)} of main memory beside the GPU, which does not fit "
            f"{room.name}: use a smaller model or adapter.rank, or more memory; {FORCE}"
        )


@contextmanager
def explained_memory(config: Config, run: Path, device: torch.device | str) -> Iterator[None]:
    """Explain a lack of memory by the plan.

    Raises:
        UserError: in place of the allocator's error.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        on_cpu = torch.device(device).type == "cpu"
        room = Room.here(device) if on_cpu else Room.of(this_gpu(device))
        saved = saved_checkpoints(run / "checkpoints")
        kept = f"{saved[-1]} is whole" if saved else "no checkpoint was written yet"
        raise UserError(
            f"there is no memory left ({' '.join(str(error).split())[:120]}…): by its plan the run "
            f"{advice(config, needs(config, on_cpu), room)}; {'ps' if on_cpu else 'nvidia-smi'} "
            f"shows what else uses it. {kept}, and is continued with these settings too, but for "
            "adapter.rank"
        ) from error

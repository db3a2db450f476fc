"""How much the bench measures: all of it, or enough to see in half a minute that it works."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

T = TypeVar("T")


class Track(Protocol):
    """Something that shows how far a loop has come; `rich.progress.Progress.track` is one."""

    def __call__(self, sequence: Sequence[T], *, description: str) -> Iterable[T]: ...


def silently(sequence: Sequence[T], *, description: str) -> Sequence[T]:
    """Track nothing."""
    return sequence


@dataclass(frozen=True)
class Effort:
    """Sizes of the samples, the grids and the trainings."""

    num_samples: int
    """For each measurement; for learned networks, for each seed."""
    order_steps: tuple[int, ...]
    """Multiples of 4 that divide 1000: the timesteps are then even, and one of them is t = 249."""
    bias_steps: tuple[int, ...]
    num_seeds: int
    pretraining_steps: int
    training_steps: int
    batch_size: int = 256


FULL = Effort(
    num_samples=1000,
    order_steps=(20, 40, 100, 200, 500),
    bias_steps=(10, 20, 50, 100, 200),
    num_seeds=5,
    pretraining_steps=4000,
    training_steps=2000,
)
QUICK = Effort(
    num_samples=300,
    order_steps=(20, 40, 100),
    bias_steps=(10, 20, 40),
    num_seeds=3,
    pretraining_steps=400,
    training_steps=200,
    batch_size=128,
)

"""How much the bench measures: all of it, or enough to see in half a minute that it works."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

Track = Callable[..., Iterable[Any]]
"""Shows the progress of a loop; called like `rich.progress.Progress.track`."""


def silently(sequence: Iterable[Any], *, description: str) -> Iterable[Any]:
    """Show no progress."""
    return sequence


@dataclass(frozen=True)
class Effort:
    """Sizes of the samples, the grids and the trainings; by default those of the full bench."""

    num_samples: int = 1000
    """For each measurement; for learned networks, for each seed."""
    order_steps: tuple[int, ...] = (20, 40, 100, 200, 500)
    """Multiples of 4 that divide 1000: the timesteps are then even, and one of them is t = 249."""
    bias_steps: tuple[int, ...] = (10, 20, 50, 100, 200)
    num_seeds: int = 5
    pretraining_steps: int = 4000
    training_steps: int = 2000
    batch_size: int = 256


FULL = Effort()
QUICK = Effort(300, (20, 40, 100), (10, 20, 40), 5, 400, 200, batch_size=128)

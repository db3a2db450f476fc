"""The timestep grid: where the solver steps, where the segments end and where sampling starts.

One rule serves all three, so that a student is never asked to jump from or to a timestep that it
was not trained on. Timestep i of N is round_half_even((i / N)^p * T) - 1: the first is CLEAN, the
last the noisiest. With p = 1 they are, read downwards, DDIM's "trailing" timesteps.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import isqrt

import torch
from jaxtyping import Int
from torch import Tensor

from fewstep.types import Timesteps

NUM_TRAIN_TIMESTEPS = 1000
"""Of Stable Diffusion and of nearly every model that followed it."""

SPACINGS = {"uniform": 1, "quadratic": 2}
"""The power p of i / N: evenly spaced timesteps, or closer ones where there is less noise."""


@dataclass(frozen=True)
class Grid:
    """The solver's `num_steps` steps, cut into `num_segments` segments of equally many steps.

    >>> Grid(40, 4).boundaries
    (-1, 249, 499, 749)

    Raises:
        ValueError: if the steps do not fit the schedule, or cannot be divided among the segments.
    """

    num_steps: int
    num_segments: int = 1
    spacing: str = "uniform"
    num_train_timesteps: int = NUM_TRAIN_TIMESTEPS

    def __post_init__(self) -> None:
        most = self.most_steps
        for num_steps in (self.num_steps, self.num_segments):
            if not 1 <= num_steps <= most:
                how = "" if self.spacing == "uniform" else f" with {self.spacing} spacing"
                raise ValueError(f"{num_steps} steps do not fit the schedule{how}: use 1 to {most}")
        if self.num_steps % self.num_segments:
            inner = ", ".join(map(str, self.cut(self.num_segments)[1:-1]))
            raise ValueError(
                f"{self.num_steps} solver steps do not contain the boundaries {inner} of "
                f"{self.num_segments} segments: use {self._working_num_steps()}"
            )

    @property
    def timesteps(self) -> tuple[int, ...]:
        """The `num_steps` + 1 timesteps between which the solver steps, CLEAN first.

        >>> Grid(4).timesteps
        (-1, 249, 499, 749, 999)
        >>> Grid(4, spacing="quadratic").timesteps
        (-1, 61, 249, 561, 999)

        Source: Song et al. 2021 (DDIM), appendix D.2, "linear" and "quadratic".
        """
        return self.cut(self.num_steps)

    @property
    def trailing(self) -> tuple[int, ...]:
        """Where each of the solver's steps starts, noisiest first: DDIM's "trailing", if uniform.

        >>> Grid(4).trailing
        (999, 749, 499, 249)
        """
        return self.timesteps[:0:-1]

    @property
    def starts(self) -> tuple[int, ...]:
        """Where one call a segment starts, noisiest first: the tops of the segments.

        >>> Grid(40, 4).starts
        (999, 749, 499, 249)
        """
        return self.cut(self.num_segments)[:0:-1]

    @property
    def boundaries(self) -> tuple[int, ...]:
        """The lower ends of the segments, CLEAN first; each is one of the solver's timesteps."""
        return self.cut(self.num_segments)[:-1]

    @property
    def most_steps(self) -> int:
        """The largest number of steps whose timesteps are all different.

        >>> Grid(1).most_steps, Grid(1, spacing="quadratic").most_steps
        (1000, 44)
        """
        if SPACINGS[self.spacing] == 1:
            return self.num_train_timesteps
        return isqrt(
            2 * self.num_train_timesteps - 1
        )  # above it, the one next to CLEAN rounds to it

    def cut(self, parts: int) -> tuple[int, ...]:
        """Return the `parts` + 1 timesteps that cut the trajectory by the grid's rule."""
        power = SPACINGS[self.spacing]
        return tuple(
            round(Fraction(i, parts) ** power * self.num_train_timesteps) - 1
            for i in range(parts + 1)
        )

    def boundary_below(self, s: Timesteps) -> Timesteps:
        """Return for each `s` the largest boundary that is not above it.

        >>> Grid(40, 2).boundary_below(torch.tensor([24, 499, 524])).tolist()
        [-1, 499, 499]
        """
        return largest_not_above(s, torch.tensor(self.boundaries, device=s.device))

    def _working_num_steps(self) -> str:
        """Name the multiples of `num_segments` around `num_steps`."""
        segments = self.num_segments
        below = self.num_steps // segments * segments
        nearest = {below, below + segments, 10 * segments}
        *others, last = map(str, sorted(n for n in nearest if 0 < n <= self.most_steps))
        return f"{', '.join(others)} or {last}" if others else last


def largest_not_above(s: Timesteps, ends: Int[Tensor, " segments"]) -> Timesteps:
    """Return for each `s` the largest of the rising `ends` that is not above it."""
    return ends[torch.searchsorted(ends, s, right=True) - 1]


def doubling(progress: float, first: int, last: int) -> int:
    """Return the number of solver steps at `progress` in [0, 1], doubling from `first` to `last`.

    `last` is `first` doubled any number of times. Every value is held for an equal share of
    training.

    >>> [doubling(progress, 10, 80) for progress in (0.0, 0.3, 0.6, 1.0)]
    [10, 20, 40, 80]

    Source: Song & Dhariwal 2023 (iCT), section 3.4, in progress instead of iterations.
    """
    num_stages = (last // first).bit_length()
    return first * 2 ** min(int(progress * num_stages), num_stages - 1)

"""The grid contract: which timesteps the solver, the segments and the sampler meet at.

One rule serves all three, so a student is never asked to jump from or to a timestep that it was not
trained on. Knot i of N is round_half_even((i / N)^p * T) - 1: knot 0 is CLEAN, knot N the noisiest
timestep. With p = 1 they are, read downwards, DDIM's "trailing" timesteps.
"""

from fractions import Fraction
from math import isqrt

import torch
from jaxtyping import Int
from torch import Tensor

from fewstep.types import Timesteps

NUM_TRAIN_TIMESTEPS = 1000
"""Of Stable Diffusion and of nearly every model that followed it."""

SPACINGS = {"uniform": 1, "quadratic": 2}
"""The power p of i / N: evenly spaced knots, or ones that lie closer the less noise there is."""


def knots(
    num_steps: int, num_train_timesteps: int = NUM_TRAIN_TIMESTEPS, spacing: str = "uniform"
) -> tuple[int, ...]:
    """Return the `num_steps` + 1 timesteps that cut the trajectory, CLEAN first.

    >>> knots(4)
    (-1, 249, 499, 749, 999)
    >>> knots(4, spacing="quadratic")
    (-1, 61, 249, 561, 999)

    Source: Song et al. 2021 (DDIM), appendix D.2, "linear" and "quadratic".

    Raises:
        ValueError: if two of that many knots would fall on one timestep.
    """
    power, most = SPACINGS[spacing], most_steps(num_train_timesteps, spacing)
    if not 1 <= num_steps <= most:
        how = "" if spacing == "uniform" else f" with {spacing} spacing"
        raise ValueError(f"{num_steps} steps do not fit the schedule{how}: use 1 to {most}")
    return tuple(
        round(Fraction(i, num_steps) ** power * num_train_timesteps) - 1
        for i in range(num_steps + 1)
    )


def most_steps(num_train_timesteps: int = NUM_TRAIN_TIMESTEPS, spacing: str = "uniform") -> int:
    """Return the largest number of steps whose knots are different timesteps.

    >>> most_steps(), most_steps(spacing="quadratic")
    (1000, 44)
    """
    if SPACINGS[spacing] == 1:
        return num_train_timesteps
    return isqrt(2 * num_train_timesteps - 1)  # above it, the knot next to CLEAN rounds to it


def trailing(
    num_steps: int, num_train_timesteps: int = NUM_TRAIN_TIMESTEPS, spacing: str = "uniform"
) -> tuple[int, ...]:
    """Return where `num_steps` calls start, noisiest first: DDIM's "trailing", if uniform.

    >>> trailing(4)
    (999, 749, 499, 249)

    Raises:
        ValueError: if that many steps do not fit the schedule.
    """
    return knots(num_steps, num_train_timesteps, spacing)[:0:-1]


def boundaries(
    num_segments: int,
    num_solver_steps: int,
    num_train_timesteps: int = NUM_TRAIN_TIMESTEPS,
    spacing: str = "uniform",
) -> tuple[int, ...]:
    """Return the lower ends of the segments, CLEAN first; each is a knot of the solver's grid.

    >>> boundaries(4, 40)
    (-1, 249, 499, 749)

    Raises:
        ValueError: if the solver's steps do not fit the schedule or cannot be divided among the
            segments.
    """
    knots(num_solver_steps, num_train_timesteps, spacing)
    ends = knots(num_segments, num_train_timesteps, spacing)
    most = most_steps(num_train_timesteps, spacing)
    if num_solver_steps % num_segments:
        inner = ", ".join(map(str, ends[1:-1]))
        raise ValueError(
            f"{num_solver_steps} solver steps do not contain the boundaries {inner} of "
            f"{num_segments} segments: use "
            f"{_working_solver_steps(num_segments, num_solver_steps, most)}"
        )
    return ends[:-1]


def boundary_below(s: Timesteps, ends: Int[Tensor, " segments"]) -> Timesteps:
    """Return for each `s` the largest of the segments' lower ends that is not above it.

    `ends` rise, and the first is not above any `s`; CLEAN never is.

    >>> boundary_below(torch.tensor([24, 499, 524]), torch.tensor([-1, 499])).tolist()
    [-1, 499, 499]
    """
    return ends[torch.searchsorted(ends, s, right=True) - 1]


def sampling_timesteps(
    num_steps: int,
    num_solver_steps: int,
    num_train_timesteps: int = NUM_TRAIN_TIMESTEPS,
    spacing: str = "uniform",
) -> tuple[int, ...]:
    """Return where `num_steps` network calls start, noisiest first; all are knots of the solver.

    >>> sampling_timesteps(4, 40)
    (999, 749, 499, 249)

    Raises:
        ValueError: if a start would not be one of the solver's knots.
    """
    boundaries(num_steps, num_solver_steps, num_train_timesteps, spacing)
    return trailing(num_steps, num_train_timesteps, spacing)


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


def _working_solver_steps(num_segments: int, num_solver_steps: int, most_steps: int) -> str:
    """Name the multiples of `num_segments` around `num_solver_steps`."""
    below = num_solver_steps // num_segments * num_segments
    nearest = {below, below + num_segments, 10 * num_segments}
    *others, last = map(str, sorted(n for n in nearest if 0 < n <= most_steps))
    return f"{', '.join(others)} or {last}" if others else last

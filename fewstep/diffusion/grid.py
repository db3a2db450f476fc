"""The grid contract: which timesteps the solver, the segments and the sampler meet at.

One rule serves all three, so a student is never asked to jump from or to a timestep that it was not
trained on. Knot i of N is round_half_even(i * T / N) - 1: knot 0 is CLEAN, knot N is the noisiest
timestep, and read downwards they are DDIM's "trailing" timesteps.
"""

from fractions import Fraction

import torch
from jaxtyping import Int
from torch import Tensor

from fewstep.types import Timesteps

NUM_TRAIN_TIMESTEPS = 1000
"""Of Stable Diffusion and of nearly every model that followed it."""


def knots(num_steps: int, num_train_timesteps: int = NUM_TRAIN_TIMESTEPS) -> tuple[int, ...]:
    """Return the `num_steps` + 1 timesteps that cut the trajectory evenly, CLEAN first.

    >>> knots(4)
    (-1, 249, 499, 749, 999)

    Raises:
        ValueError: if there are fewer than one or more than `num_train_timesteps` steps.
    """
    if not 1 <= num_steps <= num_train_timesteps:
        raise ValueError(
            f"{num_steps} steps do not fit the schedule: use 1 to {num_train_timesteps}"
        )
    return tuple(
        round(Fraction(i * num_train_timesteps, num_steps)) - 1 for i in range(num_steps + 1)
    )


def trailing(num_steps: int, num_train_timesteps: int = NUM_TRAIN_TIMESTEPS) -> tuple[int, ...]:
    """Return where `num_steps` evenly spaced calls start, noisiest first: DDIM's "trailing".

    >>> trailing(4)
    (999, 749, 499, 249)

    Raises:
        ValueError: if there are fewer than one or more than `num_train_timesteps` steps.
    """
    return knots(num_steps, num_train_timesteps)[:0:-1]


def boundaries(
    num_segments: int, num_solver_steps: int, num_train_timesteps: int = NUM_TRAIN_TIMESTEPS
) -> tuple[int, ...]:
    """Return the lower ends of the segments, CLEAN first; each is a knot of the solver's grid.

    >>> boundaries(4, 40)
    (-1, 249, 499, 749)

    Raises:
        ValueError: if the solver's steps do not fit the schedule or cannot be divided among the
            segments.
    """
    knots(num_solver_steps, num_train_timesteps)
    ends = knots(num_segments, num_train_timesteps)
    if num_solver_steps % num_segments:
        inner = ", ".join(map(str, ends[1:-1]))
        raise ValueError(
            f"{num_solver_steps} solver steps do not contain the boundaries {inner} of "
            f"{num_segments} segments: use "
            f"{_working_solver_steps(num_segments, num_solver_steps, num_train_timesteps)}"
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
    num_steps: int, num_solver_steps: int, num_train_timesteps: int = NUM_TRAIN_TIMESTEPS
) -> tuple[int, ...]:
    """Return where `num_steps` network calls start, noisiest first; all are knots of the solver.

    >>> sampling_timesteps(4, 40)
    (999, 749, 499, 249)

    Raises:
        ValueError: if a start would not be one of the solver's knots.
    """
    boundaries(num_steps, num_solver_steps, num_train_timesteps)
    return trailing(num_steps, num_train_timesteps)


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

"""Few-step samplers: loops over the student's own timesteps, noisiest first, then clean data."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch

from fewstep.diffusion.random import Draw
from fewstep.diffusion.schedule import CLEAN, NoiseSchedule
from fewstep.diffusion.solvers import ddim
from fewstep.types import Conditioning, Denoiser, Landing, Latents, Timesteps

Sample = Callable[
    [Denoiser[Landing], Latents, Sequence[int], Conditioning, NoiseSchedule, Draw], Latents
]


def deterministic(
    denoiser: Denoiser[Landing],
    x_t: Latents,
    timesteps: Sequence[int],
    cond: Conditioning,
    schedule: NoiseSchedule | None = None,
    draw: Draw | None = None,
) -> Latents:
    """Jump from each timestep to the next; the result is a function of the starting noise alone.

    With a multi-boundary student these are its segments, with a teacher plain DDIM.

    Source: Starodubcev et al. 2024 (iCD), section 3.1.
    """
    for t, s in _steps(timesteps, x_t):
        x_t = ddim(denoiser, x_t, t, s, cond)
    return x_t


def stochastic(
    denoiser: Denoiser[Landing],
    x_t: Latents,
    timesteps: Sequence[int],
    cond: Conditioning,
    schedule: NoiseSchedule,
    draw: Draw,
) -> Latents:
    """Jump to clean data and put fresh noise back at the next timestep; the last jump is returned.

    Source: Song et al. 2023 (Consistency Models), algorithm 1.
    """
    return tcd(denoiser, x_t, timesteps, cond, schedule, draw, gamma=1.0)


def tcd(
    denoiser: Denoiser[Landing],
    x_t: Latents,
    timesteps: Sequence[int],
    cond: Conditioning,
    schedule: NoiseSchedule,
    draw: Draw,
    gamma: float,
) -> Latents:
    """Jump to (1 - gamma) of the next timestep, and diffuse from there back up to it.

    `gamma` in [0, 1] goes from deterministic to stochastic; for students that land anywhere.

    Source: Zheng et al. 2024 (TCD), strategic stochastic sampling.

    Raises:
        ValueError: if `gamma` is outside [0, 1].
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is {gamma}; it has to be between 0 (no noise) and 1 (all fresh)")
    for t, s in _steps(timesteps, x_t):
        below = torch.full_like(s, CLEAN) if gamma == 1 else _share(1 - gamma, s)
        x_t = ddim(denoiser, x_t, t, below, cond)
        if gamma > 0:
            x_t = diffuse(x_t, below, s, schedule, draw)
    return x_t


def diffuse(
    x_s: Latents, s: Timesteps, t: Timesteps, schedule: NoiseSchedule, draw: Draw
) -> Latents:
    """Add the fresh noise that leads from timestep `s` up to the noisier `t`."""
    alpha_s, _ = schedule.levels(s, x_s)
    alpha_t, _ = schedule.levels(t, x_s)
    ratio = alpha_t / alpha_s
    return ratio * x_s + torch.sqrt(1 - ratio.square()) * draw.noise_like(x_s)


SAMPLERS: dict[str, Sample] = {"deterministic": deterministic, "stochastic": stochastic}
"""The samplers that a contract names."""


def _steps(timesteps: Sequence[int], x_t: Latents) -> Iterator[tuple[Timesteps, Timesteps]]:
    """Yield each timestep of the batch with the one after it, the last with CLEAN.

    Raises:
        ValueError: if there are none, or if they do not fall towards CLEAN.
    """
    steps = list(pairwise([*timesteps, CLEAN]))
    if not steps or any(t <= s for t, s in steps):
        raise ValueError(
            f"cannot sample at timesteps {list(timesteps)}: they have to fall, noisiest first, "
            "to 0 at the lowest; take them from the artefact's contract"
        )
    for t, s in steps:
        whole = torch.full((len(x_t),), t, dtype=torch.long, device=x_t.device)
        yield whole, torch.full_like(whole, s)


def _share(fraction: float, s: Timesteps) -> Timesteps:
    """Return that fraction of a timestep, rounded down; CLEAN stays CLEAN."""
    return torch.where(s == CLEAN, s, (fraction * s).floor().long())

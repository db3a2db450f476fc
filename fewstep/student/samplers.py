"""Few-step samplers: generators of x_s after each step, noisiest first, the clean sample last."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import torch

from fewstep.diffusion.random import Draw
from fewstep.diffusion.schedule import CLEAN, NoiseSchedule
from fewstep.diffusion.solvers import ddim
from fewstep.types import Conditioning, Denoiser, Latents, PredictedTrajectory, Timesteps


def deterministic(
    denoiser: Denoiser[PredictedTrajectory],
    x_t: Latents,
    timesteps: Sequence[int],
    cond: Conditioning,
    schedule: NoiseSchedule | None = None,
    draw: Draw | None = None,
) -> Iterator[Latents]:
    """Jump from each timestep to the next: a function of the starting noise alone.

    With a multi-boundary student the jumps are its segments, with a teacher this is plain DDIM.

    Source: Starodubcev et al. 2024 (iCD), section 3.1.
    """
    for t, s in _steps(timesteps, x_t):
        x_t = ddim(denoiser, x_t, t, s, cond)
        yield x_t


def stochastic(
    denoiser: Denoiser[PredictedTrajectory],
    x_t: Latents,
    timesteps: Sequence[int],
    cond: Conditioning,
    schedule: NoiseSchedule,
    draw: Draw,
) -> Iterator[Latents]:
    """Jump to clean data and add fresh noise up to the next timestep; none after the last jump.

    Source: Song et al. 2023 (Consistency Models), algorithm 1.
    """
    return tcd(denoiser, x_t, timesteps, cond, schedule, draw, gamma=1.0)


def tcd(
    denoiser: Denoiser[PredictedTrajectory],
    x_t: Latents,
    timesteps: Sequence[int],
    cond: Conditioning,
    schedule: NoiseSchedule,
    draw: Draw,
    gamma: float,
) -> Iterator[Latents]:
    """Jump to (1 - gamma) of the next timestep and diffuse back up to it.

    `gamma` goes from 0, deterministic, to 1, stochastic; for students that jump to any timestep.

    Source: Zheng et al. 2024 (TCD), strategic stochastic sampling.

    Raises:
        ValueError: if `gamma` is outside [0, 1].
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is {gamma}; it has to be between 0 (no noise) and 1 (all fresh)")
    for t, s in _steps(timesteps, x_t):
        below = torch.where(s == CLEAN, s, ((1 - gamma) * s).floor().long())
        below = torch.full_like(s, CLEAN) if gamma == 1 else below
        x_t = ddim(denoiser, x_t, t, below, cond)
        if gamma > 0:
            x_t = diffuse(x_t, below, s, schedule, draw)
        yield x_t


def diffuse(
    x_s: Latents, s: Timesteps, t: Timesteps, schedule: NoiseSchedule, draw: Draw
) -> Latents:
    """Add the fresh noise that leads from timestep `s` up to the noisier `t`."""
    alpha_s, _ = schedule.levels(s, x_s)
    alpha_t, _ = schedule.levels(t, x_s)
    ratio = alpha_t / alpha_s
    return ratio * x_s + torch.sqrt(1 - ratio.square()) * draw.noise_like(x_s)


def last(samples: Iterable[Latents]) -> Latents:
    """Run a sampler to its end and return the clean sample."""
    return deque(samples, maxlen=1)[0]


SAMPLERS: dict[str, Callable[..., Iterator[Latents]]] = {
    "deterministic": deterministic,
    "stochastic": stochastic,
}
"""The samplers that a contract can name; all take the parameters of `stochastic`."""


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
        batch_t = torch.full((len(x_t),), t, dtype=torch.long, device=x_t.device)
        yield batch_t, torch.full_like(batch_t, s)

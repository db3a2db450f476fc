"""The exact flow map of an exact denoiser: a perfect student, a perfect teacher and the truth."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from fewstep.diffusion.prediction import Prediction
from fewstep.diffusion.schedule import NoiseSchedule, per_sample
from fewstep.types import Conditioning, Denoiser, Latents, PerSample, Timesteps


@dataclass(frozen=True)
class ExactFlow:
    """A denoiser that lands exactly where the probability-flow ODE does, from any t at any s.

    With y = x / alpha and λ = sigma / alpha the ODE is dy/dλ = eps. It is integrated by RK4 in u,
    λ = detail · sinh(u): even steps below the data's finest `detail`, geometric ones above it. The
    default `step` misses by less than 5e-6 of the data's RMS, root mean square over starting noise
    and for modes up to 20 deviations apart; `halving_error` measures it. Use fp64.

    `denoiser_on` puts the denoiser on a schedule, because a schedule is only a table of levels and
    the integrator needs levels between the timesteps.

    Source: Song et al. 2020 (Score-based SDEs), eq. 13; Karras et al. 2022, eq. 1 for y and λ.

    Raises:
        ValueError: if the schedule ends in pure noise, where y is infinite.
    """

    denoiser_on: Callable[[NoiseSchedule], Denoiser[Prediction]]
    schedule: NoiseSchedule
    detail: float = 0.1
    step: float = 1 / 16

    def __post_init__(self) -> None:
        if self.schedule.ends_in_pure_noise:
            raise ValueError(
                "the exact flow needs some signal at every timestep; use a schedule without "
                "rescale_betas_zero_snr"
            )

    def __call__(self, x_t: Latents, t: Timesteps, cond: Conditioning) -> "Trajectory":
        return Trajectory(self, x_t, t, cond)

    def move(self, x_t: Latents, t: Timesteps, s: Timesteps, cond: Conditioning) -> Latents:
        """Integrate x_t from t to s, forwards or backwards, each sample in as many steps."""
        u, length = self._position(t), self._position(s) - self._position(t)
        num_steps = max(1, math.ceil(length.abs().max().item() / self.step))
        halves = torch.linspace(0, 1, 2 * num_steps + 1, dtype=torch.float64)
        level = self.detail * torch.sinh(u + halves[:, None] * length)
        stages = _schedule_of(level)
        denoiser = self.denoiser_on(stages)

        def slope(stage: int, y: Latents) -> Latents:
            here = stage * len(t) + torch.arange(len(t))
            eps = denoiser(stages.levels(here, y)[0] * y, here, cond).eps
            return per_sample((self.detail**2 + level[stage] ** 2).sqrt(), y).to(y) * eps

        h = per_sample(length / num_steps, x_t).to(x_t)
        y = x_t / self.schedule.levels(t, x_t)[0]
        for stage in range(0, 2 * num_steps, 2):
            first = slope(stage, y)
            second = slope(stage + 1, y + h / 2 * first)
            third = slope(stage + 1, y + h / 2 * second)
            fourth = slope(stage + 2, y + h * third)
            y = y + h / 6 * (first + 2 * second + 2 * third + fourth)
        return self.schedule.levels(s, x_t)[0] * y

    def halving_error(
        self, x_t: Latents, t: Timesteps, s: Timesteps, cond: Conditioning
    ) -> PerSample:
        """Return how far each landing point moves when the step is halved."""
        finer = ExactFlow(self.denoiser_on, self.schedule, self.detail, self.step / 2)
        difference = self.move(x_t, t, s, cond) - finer.move(x_t, t, s, cond)
        return difference.flatten(1).norm(dim=1)

    def _position(self, t: Timesteps) -> PerSample:
        """Return u at each timestep, in fp64; 0 at CLEAN."""
        level = self.schedule.sigmas[t + 1] / self.schedule.alphas[t + 1]
        return torch.asinh(level / self.detail)


@dataclass(frozen=True)
class Trajectory:
    """The whole path through x_t, each point of it computed when it is asked for."""

    flow: ExactFlow
    x_t: Latents
    t: Timesteps
    cond: Conditioning

    def at(self, s: Timesteps) -> Latents:
        return self.flow.move(self.x_t, self.t, s, self.cond)


def _schedule_of(level: Float64[Tensor, "stages batch"]) -> NoiseSchedule:
    """Return a schedule whose timesteps are the integrator's stages of every sample."""
    level = torch.cat([torch.zeros(1, dtype=torch.float64), level.flatten()])
    alphas = 1 / torch.sqrt(1 + level.square())
    return NoiseSchedule(alphas, level * alphas)

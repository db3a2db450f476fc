"""Steps along the probability-flow ODE: from timestep t to s, in either direction."""

from collections.abc import Callable

import torch

from fewstep.diffusion.prediction import Prediction
from fewstep.diffusion.schedule import Levels, NoiseSchedule, per_sample
from fewstep.types import Conditioning, Denoiser, Latents, PredictedTrajectory, Timesteps

Solver = Callable[[Denoiser, Latents, Timesteps, Timesteps, Conditioning], Latents]


def ddim(
    denoiser: Denoiser[PredictedTrajectory],
    x_t: Latents,
    t: Timesteps,
    s: Timesteps,
    cond: Conditioning,
) -> Latents:
    """Move x_t from timestep t to s along the denoiser's ODE, in one Euler step.

    Where ``s == t`` it is the identity, where ``s == CLEAN`` the x_0 prediction, with ``s > t`` it
    inverts.

    Source: Song et al. 2020 (DDIM), eq. 12 with sigma = 0.
    """
    x_s = denoiser(x_t, t, cond).at(s)
    return torch.where(per_sample(s == t, x_t), x_t, x_s)


def heun(
    denoiser: Denoiser[Prediction], x_t: Latents, t: Timesteps, s: Timesteps, cond: Conditioning
) -> Latents:
    """Move x_t from timestep t to s in one second-order step of two network calls.

    An exponential trapezoidal rule, with alpha = cos(phi) and sigma = sin(phi): the pair
    (x_0, eps), not the velocity, is averaged over both ends, and with the velocity v that the mean
    pair has at t the rotation of x_t by phi_s - phi_t, in the plane of x_t and v, is exact. No
    division by alpha, so zero terminal SNR is fine. A step to CLEAN looks at timestep 0 instead,
    where a network can be asked, and continues the straight line through both predictions.

    Source: Karras et al. 2022 (EDM), algorithm 1; Lu & Song 2024 (sCM), section 3 for the angle.
    """
    look = s.clamp(min=0)
    here = denoiser(x_t, t, cond)
    there = denoiser(here.at(look), look, cond)

    phi_t, phi_s, phi_look = (_angle(here.schedule, level, x_t) for level in (t, s, look))
    share = torch.where(phi_look == phi_t, 0, (phi_s - phi_t) / (phi_look - phi_t) / 2)
    x_0, eps = torch.lerp(here.x_0, there.x_0, share), torch.lerp(here.eps, there.eps, share)
    velocity = torch.cos(phi_t) * eps - torch.sin(phi_t) * x_0
    x_s = torch.cos(phi_s - phi_t) * x_t + torch.sin(phi_s - phi_t) * velocity
    return torch.where(per_sample(s == t, x_t), x_t, x_s)


SOLVERS: dict[str, Solver] = {"ddim": ddim, "heun": heun}
"""The teacher's solvers by name."""


def _angle(schedule: NoiseSchedule, t: Timesteps, like: Latents) -> Levels:
    """Return phi where alpha = cos(phi) and sigma = sin(phi), ready to multiply `like`."""
    alpha, sigma = schedule.levels(t, like)
    return torch.atan2(sigma, alpha)

"""Steps along the probability-flow ODE: from timestep t to s, in either direction."""

from collections.abc import Callable

import torch

from fewstep.diffusion.prediction import Prediction
from fewstep.diffusion.schedule import CLEAN, per_sample
from fewstep.types import Conditioning, Denoiser, Landing, Latents, Timesteps

Solver = Callable[[Denoiser, Latents, Timesteps, Timesteps, Conditioning], Latents]


def ddim(
    denoiser: Denoiser[Landing], x_t: Latents, t: Timesteps, s: Timesteps, cond: Conditioning
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

    The trapezoidal rule for dx/dphi = v with alpha = cos(phi) and sigma = sin(phi): the pair
    (x_0, eps) is averaged over both ends, and x_t is turned by phi_s - phi_t in the plane of x_t
    and v. No division, so zero terminal SNR is fine. The step that lands on CLEAN is DDIM.

    Source: Karras et al. 2022 (EDM), algorithm 1; Lu & Song 2024 (sCM), section 3 for the angle.
    """
    here = denoiser(x_t, t, cond)
    euler = torch.where(per_sample(s == t, x_t), x_t, here.at(s))
    there = denoiser(euler, s, cond)

    alpha_t, sigma_t = here.schedule.levels(t, x_t)
    alpha_s, sigma_s = here.schedule.levels(s, x_t)
    velocity = alpha_t * (here.eps + there.eps) / 2 - sigma_t * (here.x_0 + there.x_0) / 2
    cos, sin = alpha_s * alpha_t + sigma_s * sigma_t, sigma_s * alpha_t - alpha_s * sigma_t
    return torch.where(per_sample((s == t) | (s == CLEAN), x_t), euler, cos * x_t + sin * velocity)


SOLVERS: dict[str, Solver] = {"ddim": ddim, "heun": heun}
"""The teacher's solvers by name."""

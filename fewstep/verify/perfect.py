"""Perfect students: networks that have learnt the exact flow, and only what they were taught."""

from collections.abc import Sequence

import torch

from fewstep.diffusion.grid import largest_not_above
from fewstep.diffusion.prediction import Prediction
from fewstep.diffusion.schedule import NoiseSchedule
from fewstep.types import Conditioning, Denoiser, Latents, Timesteps
from fewstep.verify.exact_flow import ExactFlow


def perfect_student(flow: ExactFlow, ends: Sequence[int]) -> Denoiser[Prediction]:
    """Return a student that lands exactly on the lower end of t's segment (end, next end].

    Like any network it gives one pair (x_0, eps) at t. Asked to land anywhere else it follows the
    straight line through x_t and that landing point, which is what mismatched samplers make it do.
    """
    lower_ends = torch.tensor(ends)

    def denoise(x_t: Latents, t: Timesteps, cond: Conditioning) -> Prediction:
        end = largest_not_above(t - 1, lower_ends)
        return through(x_t, t, flow(x_t, t, cond).at(end), end, flow.schedule)

    return denoise


def through(
    x_t: Latents, t: Timesteps, x_s: Latents, s: Timesteps, schedule: NoiseSchedule
) -> Prediction:
    """Return the pair (x_0, eps) that explains both x_t and x_s, where s differs from t."""
    alpha_t, sigma_t = schedule.levels(t, x_t)
    alpha_s, sigma_s = schedule.levels(s, x_t)
    turn = alpha_s * sigma_t - alpha_t * sigma_s
    x_0 = (sigma_t * x_s - sigma_s * x_t) / turn
    eps = (alpha_s * x_t - alpha_t * x_s) / turn
    return Prediction(x_0, eps, schedule)

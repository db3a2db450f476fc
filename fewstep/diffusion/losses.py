"""How far the student lands from its target: distances, and their weights over time."""

from collections.abc import Callable

import torch

from fewstep.diffusion.schedule import NoiseSchedule
from fewstep.types import Latents, PerSample, Timesteps

Distance = Callable[[Latents, float], PerSample]


def squared_error(difference: Latents, c: float = 0.0) -> PerSample:
    """Return the mean over elements of d²; `c` plays no part."""
    return difference.flatten(1).square().mean(1)


def pseudo_huber(difference: Latents, c: float) -> PerSample:
    """Return the mean over elements of sqrt(d² + c²) - c: quadratic below c, linear above it.

    Source: Luo et al. 2023 (LCM), the "huber" loss of its released training code.
    """
    return (torch.sqrt(difference.flatten(1).square() + c * c) - c).mean(1)


def pseudo_huber_vector(difference: Latents, c: float) -> PerSample:
    """Return sqrt(‖d‖² + c²) - c of each whole sample; c is in units of its norm.

    Source: Song & Dhariwal 2023 (iCT), eq. 7, where c = 0.00054 * sqrt(dim).
    """
    return torch.sqrt(difference.flatten(1).square().sum(1) + c * c) - c


DISTANCES: dict[str, Distance] = {
    "squared-error": squared_error,
    "pseudo-huber": pseudo_huber,
    "pseudo-huber-vector": pseudo_huber_vector,
}


def uniform(schedule: NoiseSchedule, t: Timesteps, s: Timesteps) -> PerSample:
    """Weigh every timestep the same."""
    return torch.ones_like(schedule.alpha(t))


def inverse_gap(schedule: NoiseSchedule, t: Timesteps, s: Timesteps) -> PerSample:
    """Weigh by 1 / (sigma'_t - sigma'_s), where sigma' = sigma / alpha is the noise level.

    Source: Song & Dhariwal 2023 (iCT), section 3.1.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.exact(t), schedule.exact(s)
    return (1 / (sigma_t / alpha_t - sigma_s / alpha_s)).float()


def min_snr(schedule: NoiseSchedule, t: Timesteps, s: Timesteps) -> PerSample:
    """Weigh by min(SNR, 5); measured in x_0.

    Source: Hang et al. 2023 (Min-SNR), section 3.4.
    """
    return schedule.snr(t).clamp(max=5.0)


def snr_plus_one(schedule: NoiseSchedule, t: Timesteps, s: Timesteps) -> PerSample:
    """Weigh by SNR + 1; measured in x_0.

    With the squared error, and only with it, this is the squared error of the velocity.

    Source: Salimans & Ho 2022, section 4; Heek et al. 2024 (Multistep CM), section 3.
    """
    return schedule.snr(t) + 1


WEIGHTINGS = {
    "uniform": uniform,
    "inverse-gap": inverse_gap,
    "min-snr": min_snr,
    "snr-plus-one": snr_plus_one,
}

IN_X_0 = {"min-snr", "snr-plus-one"}
"""The weightings of an error in x_0; the others weigh the error at the jump's target."""

NEED_SIGNAL = {"inverse-gap", "min-snr"}
"""The weightings that are 0 in pure noise."""


def check_weighting(weighting: str, schedule: NoiseSchedule) -> None:
    """Refuse a weighting that leaves out the timestep where every sampler starts.

    Raises:
        ValueError: if the weight is 0 in pure noise and the schedule ends there.
    """
    if weighting in NEED_SIGNAL and schedule.ends_in_pure_noise:
        raise ValueError(
            f"method.weighting is {weighting!r}, which weighs the last timestep, where sampling "
            "starts, with 0 on a schedule that ends in pure noise (rescale_betas_zero_snr); "
            "use 'uniform' or 'snr-plus-one'"
        )


def x_0_per_jump(schedule: NoiseSchedule, t: Timesteps, end: Timesteps) -> PerSample:
    """Return by how much x_0 changes when the jump target at `end` does, for a fixed x_t at `t`.

    A DDIM step ends at (sigma_end / sigma_t) x_t + (alpha_end - sigma_end alpha_t / sigma_t) x_0.

    Source: Heek et al. 2024 (Multistep CM), algorithm 1 ("invDDIM").
    """
    (alpha_t, sigma_t), (alpha_end, sigma_end) = schedule.exact(t), schedule.exact(end)
    return (1 / (alpha_end - sigma_end * alpha_t / sigma_t)).float()

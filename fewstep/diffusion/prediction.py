"""A network's prediction from noisy latents, as the pair (x_0, eps) whatever its type."""

from collections.abc import Callable
from dataclasses import dataclass

from fewstep.diffusion.schedule import NoiseSchedule
from fewstep.types import Latents, Timesteps


@dataclass(frozen=True)
class Prediction:
    """The clean latents and the noise that explain x_t = alpha_t * x_0 + sigma_t * eps.

    `unguided` is the x_0 that the prompt alone gives, where the prediction was guided.
    """

    x_0: Latents
    eps: Latents
    schedule: NoiseSchedule
    unguided: Latents | None = None

    def at(self, s: Timesteps) -> Latents:
        """Put the noise back at level `s`: the point of the predicted trajectory there.

        Source: Song et al. 2020 (DDIM), eq. 12 with sigma = 0.
        """
        return self.schedule.add_noise(self.x_0, self.eps, s)


OutputReader = Callable[[Latents, Latents, Timesteps, NoiseSchedule], Prediction]
"""(network output, x_t, t, schedule) to a Prediction."""


def from_epsilon(
    output: Latents, x_t: Latents, t: Timesteps, schedule: NoiseSchedule
) -> Prediction:
    """Read the output as the noise in `x_t`."""
    alpha, sigma = schedule.levels(t, x_t)
    return Prediction((x_t - sigma * output) / alpha, output, schedule)


def from_v(output: Latents, x_t: Latents, t: Timesteps, schedule: NoiseSchedule) -> Prediction:
    """Read the output as the velocity alpha * eps - sigma * x_0.

    Source: Salimans & Ho 2022 (Progressive Distillation), appendix D.
    """
    alpha, sigma = schedule.levels(t, x_t)
    return Prediction(alpha * x_t - sigma * output, alpha * output + sigma * x_t, schedule)


def from_sample(output: Latents, x_t: Latents, t: Timesteps, schedule: NoiseSchedule) -> Prediction:
    """Read the output as the clean latents; `t` must not be CLEAN."""
    alpha, sigma = schedule.levels(t, x_t)
    return Prediction(output, (x_t - alpha * output) / sigma, schedule)


PREDICTION_TYPES: dict[str, OutputReader] = {
    "epsilon": from_epsilon,
    "v_prediction": from_v,
    "sample": from_sample,
}
"""diffusers' names of what a network predicts."""


def output_reader(prediction_type: str, schedule: NoiseSchedule) -> OutputReader:
    """Return how to read the outputs of a network with this prediction type on this schedule.

    Raises:
        ValueError: if the type is unknown, or if it is "epsilon" and the schedule ends in pure
            noise, where x_0 would be divided by an alpha of 0.
    """
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(
            f"unknown prediction_type {prediction_type!r}; known: {', '.join(PREDICTION_TYPES)}"
        )
    if prediction_type == "epsilon" and schedule.ends_in_pure_noise:
        raise ValueError(
            "prediction_type 'epsilon' cannot be used with rescale_betas_zero_snr: at the last "
            "timestep alpha is 0 and noise alone does not determine x_0; use a v_prediction model, "
            "or turn rescale_betas_zero_snr off"
        )
    return PREDICTION_TYPES[prediction_type]

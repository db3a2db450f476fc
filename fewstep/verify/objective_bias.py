"""What each objective gets wrong by itself, whatever the network: errors of the fixed points."""

import torch

from fewstep.diffusion.grid import Grid
from fewstep.diffusion.schedule import CLEAN, NoiseSchedule
from fewstep.verify.effort import Effort, Track
from fewstep.verify.fixed_points import Distillation, Training, TrueMap, fixed_point
from fewstep.verify.world import LINE, SCHEDULE, TOP

OBJECTIVES = {
    "CD": (Distillation(LINE), 1),
    "CT, squared error": (Training(LINE), 1),
    "CT, squared error, four segments": (Training(LINE), 4),
    "CT, pseudo-Huber c = 0.1": (Training(LINE, huber_c=0.1), 1),
    "CT, pseudo-Huber c = 0.03": (Training(LINE, huber_c=0.03), 1),
    "CT, pseudo-Huber c = 0.03, four segments": (Training(LINE, huber_c=0.03), 4),
    "CT, pseudo-Huber c = 0.001": (Training(LINE, huber_c=0.001), 1),
}
"""The rule and the number of segments; pseudo-Huber is a number here, so both its forms agree."""

SD_STEPS = 40
"""The solver steps that the methods have by default, on Stable Diffusion's own grid."""


def measure_bias(effort: Effort, track: Track) -> dict:
    """Return the error of each objective on both sets of noise levels."""
    truth = TrueMap.of(LINE, karras(2), 1)  # the highest level is the same for any number
    errors: dict[str, list[float]] = {name: [] for name in OBJECTIVES}
    for num_steps in track(effort.bias_steps, description="bias of the objectives"):
        schedule = karras(num_steps)
        timesteps = range(CLEAN, num_steps)
        for name, (rule, num_segments) in OBJECTIVES.items():
            ends = [timesteps[round(i * num_steps / num_segments)] for i in range(num_segments)]
            landing = fixed_point(rule, schedule, timesteps, ends)
            errors[name].append(truth.rms_error(landing))
    truth = TrueMap.of(LINE, SCHEDULE, TOP)
    on_sd = {}
    objectives = list(OBJECTIVES.items())
    for name, (rule, num_segments) in track(objectives, description="bias on the sampling grid"):
        ends = Grid(SD_STEPS, num_segments).boundaries
        on_sd[name] = truth.rms_error(fixed_point(rule, SCHEDULE, Grid(SD_STEPS).timesteps, ends))
    return {"steps": list(effort.bias_steps), "karras": errors, "stable-diffusion": on_sd}


def karras(
    num_levels: int, lowest: float = 0.03, highest: float = 14.6, rho: float = 7.0
) -> NoiseSchedule:
    """Return a schedule whose timesteps are the noise levels of EDM's sampler.

    Source: Karras et al. 2022 (EDM), eq. 5.
    """
    roots = torch.linspace(lowest ** (1 / rho), highest ** (1 / rho), num_levels)
    noise_to_signal = torch.cat([torch.zeros(1), roots]).double() ** rho
    alphas = 1 / torch.sqrt(1 + noise_to_signal.square())
    return NoiseSchedule(alphas, noise_to_signal * alphas)

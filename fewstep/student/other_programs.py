"""The sampler of another program that comes nearest to a student's own."""

from collections.abc import Sequence
from typing import Any

import torch

from fewstep.student.contract import Contract

NOISE_LEVELS = (
    "num_train_timesteps",
    "beta_schedule",
    "beta_start",
    "beta_end",
    "trained_betas",
    "rescale_betas_zero_snr",
    "prediction_type",
)
"""The entries of a scheduler config that decide how much noise there is, and how it is read."""

LCM_MIXES_BELOW = 8
"""LCMScheduler keeps 0.25 / ((10 t)² + 0.25) of x_t: from this timestep on less than 1e-4."""


def noise_levels(contract: Contract) -> dict[str, Any]:
    """Return the part of a diffusers scheduler config that is the model's, not the sampler's."""
    config = contract.scheduler_config
    return {name: config[name] for name in NOISE_LEVELS if config.get(name) is not None}


def scheduler_config(contract: Contract) -> dict[str, Any]:
    """Return the config of the diffusers scheduler that samples this student.

    DDIM with trailing timesteps that end on clean data jumps as a multi-boundary student does; the
    LCM scheduler is the stochastic sampler. Knots that are not evenly spaced are told a pipeline as
    `pipeline_call` says, which DDIM does not take; Euler does, and makes the same steps. Where
    `is_exact_in_diffusers` says no, it is near, and FewStepScheduler is exact.
    """
    common = noise_levels(contract) | {"steps_offset": 1}  # of any other, pipelines warn
    if contract.sampler == "deterministic" and contract.grid.spacing != "uniform":
        # "leading" is how it takes noise of variance 1; the timesteps themselves it is told
        return {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", **common}
    common |= {"clip_sample": False, "set_alpha_to_one": True}
    if contract.sampler == "deterministic":
        return {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing", **common}
    return {
        "_class_name": "LCMScheduler",
        "original_inference_steps": contract.grid.num_steps,
        **common,
    }


def pipeline_call(contract: Contract, num_steps: int) -> dict[str, Any]:
    """Return how a pipeline of diffusers is told the steps: their number, or where each starts."""
    if contract.grid.spacing == "uniform":
        return {"num_inference_steps": num_steps}
    return {"timesteps": list(contract.timesteps(num_steps))}


def is_exact_in_diffusers(contract: Contract, num_steps: int) -> bool:
    """Return whether `scheduler_config` and `pipeline_call` make exactly the student's jumps.

    Trailing DDIM lands T // n below each of its starts, on the next one only where n divides T. The
    LCM scheduler starts on N timesteps that lie T // N apart, or where it is told to; but next to
    clean data it mixes in what it started from.
    """
    total, starts = contract.grid.num_train_timesteps, contract.timesteps(num_steps)
    if contract.sampler == "deterministic":
        return contract.grid.spacing != "uniform" or total % num_steps == 0
    if starts[-1] < LCM_MIXES_BELOW:
        return False
    steps = contract.grid.num_steps
    taken = (steps - i * steps // num_steps for i in range(num_steps))
    its_own = tuple(n * (total // steps) - 1 for n in taken)
    return contract.grid.spacing != "uniform" or its_own == starts


def comfyui_sampling(contract: Contract) -> tuple[str, bool] | None:
    """Return `sampling` and `zsnr` of ComfyUI's ModelSamplingDiscrete, where that node is needed.

    Its "lcm" takes every network's output for noise; "v_prediction" leaves all timesteps as they
    are, and sampler `lcm` works with it too.

    Source: ComfyUI, comfy_extras/nodes_model_advanced.py.
    """
    if contract.prediction_type == "v_prediction":
        return "v_prediction", contract.schedule.ends_in_pure_noise
    is_told = contract.grid.spacing != "uniform"  # its noise levels, by ManualSigmas
    return ("lcm", False) if contract.sampler == "stochastic" and not is_told else None


def comfyui_sampler(contract: Contract) -> str:
    return "euler" if contract.sampler == "deterministic" else "lcm"


def comfyui_sigmas(contract: Contract, num_steps: int) -> str:
    """Return what ComfyUI's ManualSigmas is told: the noise level of each call, and 0."""
    starts = torch.tensor(contract.timesteps(num_steps))
    alpha, sigma = contract.schedule.exact(starts)
    levels = (sigma / alpha).clamp(max=4518.7)  # its zero terminal SNR
    return ", ".join(f"{level:.8f}" for level in [*levels.tolist(), 0])  # it reads no exponents


def comfyui_starts(contract: Contract, num_steps: int) -> tuple[int, ...]:
    """Return where the calls of ComfyUI's scheduler "simple" start.

    With ModelSamplingDiscrete "lcm" it chooses among 50 timesteps, else among all.

    Source: ComfyUI, comfy/samplers.py `simple_scheduler`.
    """
    total = contract.grid.num_train_timesteps
    levels: Sequence[int] = range(total)
    if comfyui_sampling(contract) == ("lcm", False):
        levels = range(total // 50 - 1, total, total // 50)
    return tuple(levels[-(1 + int(i * len(levels) / num_steps))] for i in range(num_steps))

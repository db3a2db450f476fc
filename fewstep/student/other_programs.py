"""The settings with which other programs sample a student as it should be, or nearly."""

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
"""The entries of a scheduler config that decide the noise levels and the prediction type."""

LCM_MIXES_BELOW = 8
"""LCMScheduler keeps 0.25 / ((10 t)² + 0.25) of x_t: from this timestep on less than 1e-4."""


def noise_levels(contract: Contract) -> dict[str, Any]:
    """Return the part of a diffusers scheduler config that is the model's, not the sampler's."""
    config = contract.scheduler_config
    return {name: config[name] for name in NOISE_LEVELS if config.get(name) is not None}


def scheduler_config(contract: Contract) -> dict[str, Any]:
    """Return the config of the diffusers scheduler that samples this student.

    DDIM with trailing timesteps that end on clean data jumps as a multi-boundary student does; the
    LCM scheduler is the stochastic sampler. Timesteps that are not evenly spaced are passed to the
    pipeline (`pipeline_call`): DDIM takes none, Euler does and makes the same steps. No artefact
    holds such a config: asked for a number of steps, it would start elsewhere and say nothing.
    Where `is_exact_in_diffusers` is false it is an approximation, and FewStepScheduler is exact.
    """
    common = noise_levels(contract) | {"steps_offset": 1}  # of any other, pipelines warn
    if contract.sampler == "deterministic" and contract.grid.spacing != "uniform":
        # with "leading" it takes noise of variance 1; the timesteps are passed to the pipeline
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
    """Return a diffusers pipeline's arguments for the steps: their number, or their timesteps."""
    if contract.grid.spacing == "uniform":
        return {"num_inference_steps": num_steps}
    return {"timesteps": list(contract.timesteps(num_steps))}


def is_exact_in_diffusers(contract: Contract, num_steps: int) -> bool:
    """Return whether `scheduler_config` and `pipeline_call` make exactly the student's jumps.

    Trailing DDIM jumps T // n down, to its next timestep only where n divides T. The LCM scheduler
    samples at N timesteps T // N apart, or at given ones, but mixes in x_t close to clean data.
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

    "v_prediction" changes no timestep. A CD or CT student needs no "lcm" there, which chooses among
    50 timesteps: the sampler `lcm` alone makes its jumps.

    Source: ComfyUI, comfy_extras/nodes_model_advanced.py.
    """
    if contract.prediction_type == "v_prediction":
        return "v_prediction", contract.schedule.ends_in_pure_noise
    return None


def comfyui_sampler(contract: Contract) -> str:
    """Return the name of ComfyUI's sampler that makes the student's jumps."""
    return "euler" if contract.sampler == "deterministic" else "lcm"


def comfyui_sigmas(contract: Contract, num_steps: int) -> str:
    """Return the noise levels for ComfyUI's ManualSigmas: one a step, and 0."""
    starts = torch.tensor(contract.timesteps(num_steps))
    alpha, sigma = contract.schedule.exact(starts)
    levels = (sigma / alpha).clamp(max=4518.7)  # its zero terminal SNR
    return ", ".join(f"{level:.8f}" for level in [*levels.tolist(), 0])  # it reads no exponents


def simple_starts(total: int, num_steps: int) -> tuple[int, ...]:
    """Return the timesteps of the schedule "simple" of ComfyUI, A1111 and others.

    Source: ComfyUI, comfy/samplers.py `simple_scheduler`.
    """
    return tuple(total - 1 - int(i * total / num_steps) for i in range(num_steps))


def linspace_starts(total: int, num_steps: int) -> tuple[int, ...]:
    """Return evenly spaced timesteps down to 0: the default of Euler in several programs.

    >>> linspace_starts(1000, 4)
    (999, 666, 333, 0)
    """
    return tuple(round((total - 1) * (1 - i / max(num_steps - 1, 1))) for i in range(num_steps))

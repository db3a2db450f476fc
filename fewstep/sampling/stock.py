"""The sampler of another program that comes nearest to a student's own."""

from collections.abc import Mapping, Sequence
from typing import Any

from fewstep.methods.base import last_solver_steps
from fewstep.sampling.contract import Contract

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


def noise_levels(contract: Contract) -> dict[str, Any]:
    """Return the part of a diffusers scheduler config that is the model's, not the sampler's."""
    config = contract.schedule.config
    return {name: config[name] for name in NOISE_LEVELS if config.get(name) is not None}


def scheduler_config(contract: Contract) -> dict[str, Any]:
    """Return the config of the diffusers scheduler that samples this student.

    DDIM with trailing timesteps that end on clean data jumps as a multi-boundary student does; the
    LCM scheduler is the stochastic sampler. Where `is_exact_in_diffusers` says no, it is near, and
    FewStepScheduler is exact.
    """
    common = noise_levels(contract) | {"clip_sample": False, "set_alpha_to_one": True}
    common["steps_offset"] = 1  # neither makes use of it, and pipelines warn of any other
    if contract.grid.sampler == "deterministic":
        return {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing", **common}
    return {
        "_class_name": "LCMScheduler",
        "original_inference_steps": num_solver_steps(contract),
        **common,
    }


def num_solver_steps(contract: Contract) -> int:
    """Return the number of solver steps that training ended with."""
    method: Mapping[str, Any] = contract.method
    return last_solver_steps(method["num_solver_steps"], method.get("final_solver_steps"))


def is_exact_in_diffusers(contract: Contract, num_steps: int) -> bool:
    """Return whether the scheduler of `scheduler_config` makes exactly the student's jumps.

    Trailing DDIM lands T // n below each of its starts, on the next one only where n divides T. The
    LCM scheduler starts on N timesteps that lie T // N apart.
    """
    total = contract.grid.num_train_timesteps
    if contract.grid.sampler == "deterministic":
        return total % num_steps == 0
    steps = num_solver_steps(contract)
    taken = (steps - i * steps // num_steps for i in range(num_steps))
    return tuple(n * (total // steps) - 1 for n in taken) == contract.timesteps(num_steps)


def comfyui_sampling(contract: Contract) -> tuple[str, bool] | None:
    """Return `sampling` and `zsnr` of ComfyUI's ModelSamplingDiscrete, where that node is needed.

    Its "lcm" takes every network's output for noise; "v_prediction" leaves all timesteps as they
    are, and sampler `lcm` works with it too.

    Source: ComfyUI, comfy_extras/nodes_model_advanced.py.
    """
    if contract.schedule.prediction_type == "v_prediction":
        return "v_prediction", ends_in_pure_noise(contract)
    return ("lcm", False) if contract.grid.sampler == "stochastic" else None


def ends_in_pure_noise(contract: Contract) -> bool:
    """Return whether the model has zero terminal SNR, which few programs know of."""
    return bool(contract.schedule.config.get("rescale_betas_zero_snr"))


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

"""How each program samples a student: which file, which settings, and what goes wrong otherwise.

Where a program starts its calls is computed from its own rule; errors in parentheses were measured
against the exact recursion, four segments, latents of unit variance.
"""

from dataclasses import dataclass

from fewstep.export.names import FUSED
from fewstep.student.contract import FULL_FILE, LORA_FILE, Contract
from fewstep.student.other_programs import (
    comfyui_sampler,
    comfyui_sampling,
    comfyui_sigmas,
    comfyui_starts,
    ends_in_pure_noise,
    is_exact_in_diffusers,
    num_solver_steps,
    pipeline_call,
)

FUSED_FOLDER = f"{FUSED}diffusers/"


@dataclass(frozen=True)
class Recipe:
    """One program's way to the student's image; every entry is Markdown."""

    program: str
    file: str
    settings: str
    result: str
    otherwise: str


def recipes(contract: Contract, name: str) -> list[Recipe]:
    """Return the recipes for a student whose files are called `name`."""
    steps = contract.default_num_steps
    is_full = contract.adapter.get("preset") == "full"
    lora, kohya = (LORA_FILE, f"{name}.safetensors")
    if is_full:
        lora, kohya = FULL_FILE.partition("/")[0] + "/", f"{FUSED}{name}-fused.safetensors"
    own = [
        Recipe(
            "fewstep", "the folder", "`FewStepPipeline.from_pretrained(folder)`", "exact",
            "another number of steps, another base model and guidance are refused",
        ),
        Recipe(
            "diffusers with fewstep", f"`{lora}`", "`FewStepScheduler.from_artefact(folder)`",
            "exact",
            "another number of steps is refused"
            + ("" if contract.takes_guidance else ", and so is diffusers' default guidance of 7.5"),
        ),
    ]  # fmt: skip
    build = _deterministic if contract.grid.sampler == "deterministic" else _stochastic
    if contract.spacing != "uniform":
        build = _told_timesteps
    rows = own + build(contract, steps, f"`{lora}`", f"`{kohya}`")
    peft = Recipe(
        "PEFT", "`adapter_model.safetensors`", "`PeftModel.from_pretrained(unet, folder)`",
        "exact weights", "the sampler is that of the program around it",
    )  # fmt: skip
    return rows if is_full else [*rows, peft]


def guidance(contract: Contract) -> str:
    """Return what to set the guidance to, in words."""
    if contract.takes_guidance:
        return "1 for the plain student; above 1 with or without a negative prompt"
    return "1 (none), and no negative prompt"


def usage_hint(contract: Contract) -> str:
    """Return in one line how to sample, for the headers of files."""
    if contract.spacing != "uniform":
        starts = ", ".join(map(str, contract.timesteps()))
        return f"timesteps {starts}, CFG {guidance(contract)}, sampler {comfyui_sampler(contract)}"
    sampler = (
        "DDIM trailing, or Euler with the Simple schedule"
        if contract.grid.sampler == "deterministic"
        else "LCM"
    )
    return f"{contract.default_num_steps} steps, CFG {guidance(contract)}, sampler {sampler}"


def _deterministic(contract: Contract, steps: int, lora: str, kohya: str) -> list[Recipe]:
    trailing = "exact" if is_exact_in_diffusers(contract, steps) else "near: lands a timestep off"
    return [
        Recipe(
            "diffusers alone", lora,
            f'`DDIMScheduler` with `timestep_spacing="trailing"`, `set_alpha_to_one=True`, '
            f"`clip_sample=False`; {steps} steps, `guidance_scale=1`",
            trailing,
            'spacing "leading", the default of SD 1.5, starts elsewhere; '
            "`set_alpha_to_one=False` leaves noise (0.03); TCD too; Euler scales the first noise "
            "(0.1); the LCM scheduler adds noise between the jumps",
        ),
        Recipe(
            "ComfyUI", kohya,
            f"{_comfyui_node(contract)}KSampler: {steps} steps, cfg 1, `euler`, `simple`",
            _simple(contract, steps),
            "`sgm_uniform` makes the last call a timestep off (0.007); `normal` and "
            "`ddim_uniform` start elsewhere",
        ),
        Recipe(
            "A1111, Forge", kohya,
            f"Euler, schedule type Simple, {steps} steps, CFG 1, and the setting "
            '"SGM noise multiplier" on',
            _simple(contract, steps),
            'without "SGM noise multiplier" the first noise is scaled (0.1); "DDIM" makes one call '
            "less and starts elsewhere",
        ),
        Recipe(
            "InvokeAI", f"`{FUSED_FOLDER}`", f"{steps} steps, CFG 1, its scheduler as it is",
            trailing, "with the LoRA alone it takes the base model's scheduler: wrong",
        ),
        Recipe(
            "Draw Things", kohya, f'"DDIM Trailing", {steps} steps, guidance 1',
            "the right timesteps", "other samplers start elsewhere",
        ),
    ]  # fmt: skip


def _stochastic(contract: Contract, steps: int, lora: str, kohya: str) -> list[Recipe]:
    exact = is_exact_in_diffusers(contract, steps)
    stock = "exact" if exact else "near: its timesteps are others"
    original = num_solver_steps(contract)
    return [
        Recipe(
            "diffusers alone", lora,
            f"`LCMScheduler` with `original_inference_steps={original}`; {steps} steps, "
            "`guidance_scale=1`",
            stock,
            "the default of 50 original steps starts elsewhere; DDIM and Euler add no noise "
            "between the jumps, which this student needs",
        ),
        Recipe(
            "ComfyUI", kohya,
            f"{_comfyui_node(contract)}KSampler: {steps} steps, cfg 1, `lcm`, `simple`",
            _simple(contract, steps),
            "without ModelSamplingDiscrete, or with `euler`: blurred or noisy",
        ),
        Recipe(
            "A1111, Forge", kohya, f"LCM, {steps} steps, CFG 1", "not measured",
            "other samplers add no noise between the jumps",
        ),
        Recipe(
            "InvokeAI", f"`{FUSED_FOLDER}`", f"{steps} steps, CFG 1, its scheduler as it is",
            stock, "with the LoRA alone it takes the base model's scheduler: wrong",
        ),
        Recipe(
            "Draw Things", kohya, f'"LCM", {steps} steps, guidance 1', "not measured",
            "other samplers add no noise between the jumps",
        ),
    ]  # fmt: skip


def _told_timesteps(contract: Contract, steps: int, lora: str, kohya: str) -> list[Recipe]:
    """Return the recipes where calls do not start at evenly spaced timesteps."""
    scheduler = (
        '`EulerDiscreteScheduler` with `timestep_spacing="leading"`'
        if contract.grid.sampler == "deterministic"
        else "`LCMScheduler`"
    )
    starts = pipeline_call(contract, steps)["timesteps"]
    unable = "it cannot be told timesteps: "
    unable += "wrong" if len(contract.grid.boundaries) > 1 else "not measured"
    warns = "; it warns of timesteps that are not its own" if "LCM" in scheduler else ""
    return [
        Recipe(
            "diffusers alone", lora, f"{scheduler}; `timesteps={starts}`, `guidance_scale=1`",
            "exact" if is_exact_in_diffusers(contract, steps) else "near: next to clean data",
            f"`num_inference_steps` starts elsewhere, and DDIM takes no timesteps{warns}",
        ),
        Recipe(
            "ComfyUI", kohya,
            f"{_comfyui_node(contract)}ManualSigmas: `{comfyui_sigmas(contract, steps)}`; "
            f"SamplerCustom: cfg 1, `{comfyui_sampler(contract)}`",
            "not measured" if _is_unknown_to_comfyui(contract) else "exact",
            "KSampler's own schedules start elsewhere; older versions have no ManualSigmas",
        ),
        Recipe("A1111, Forge", kohya, "", unable, "use another program"),
        Recipe("InvokeAI", f"`{FUSED_FOLDER}`", "", unable, "use another program"),
        Recipe("Draw Things", kohya, "", unable, "use another program"),
    ]  # fmt: skip


def _is_unknown_to_comfyui(contract: Contract) -> bool:
    return ends_in_pure_noise(contract) or contract.schedule.prediction_type == "sample"


def _comfyui_node(contract: Contract) -> str:
    sampling, zsnr = comfyui_sampling(contract) or ("", False)
    told = f"ModelSamplingDiscrete: `{sampling}`{', `zsnr` on' if zsnr else ''}; "
    return told if sampling else ""


def _simple(contract: Contract, steps: int) -> str:
    """Compare the scheduler "simple", ComfyUI's and after it A1111's, with the contract."""
    if _is_unknown_to_comfyui(contract):
        return "not measured"
    starts = comfyui_starts(contract, steps)
    if starts == contract.timesteps(steps):
        return "exact"
    return f"near: starts at {', '.join(map(str, starts))}"

"""How each program samples a student: which file, which settings, and what goes wrong otherwise.

Where a program starts its calls is computed from its own rule; errors in parentheses were measured
against the exact recursion, four segments, latents of unit variance.
"""

from typing import NamedTuple

from fewstep.export.artefact import FUSED, FUSED_FOLDER, is_whole_network
from fewstep.student.contract import FULL_FILE, LORA_FILE, Contract
from fewstep.student.other_programs import (
    comfyui_sampler,
    comfyui_sampling,
    comfyui_sigmas,
    comfyui_starts,
    ends_in_pure_noise,
    is_exact_in_diffusers,
    num_solver_steps,
)


class Guide(NamedTuple):
    """How one program samples a student; every entry is Markdown, here with {facts} to fill in."""

    program: str
    file: str
    settings: str
    result: str
    otherwise: str


FEWSTEP = [
    Guide("fewstep", "the folder", "`FewStepPipeline.from_pretrained(folder)`", "exact",
          "another number of steps, another base model and guidance are refused"),
    Guide("diffusers with fewstep", "`{lora}`", "`FewStepScheduler.from_artefact(folder)`", "exact",
          "another number of steps is refused{guidance_refused}"),
]  # fmt: skip
PEFT = Guide("PEFT", "`adapter_model.safetensors`", "`PeftModel.from_pretrained(unet, folder)`",
             "exact weights", "the sampler is that of the program around it")  # fmt: skip
INVOKEAI = Guide(
    "InvokeAI", f"`{FUSED_FOLDER}`", "{steps} steps, CFG 1, its scheduler as it is",
    "{in_diffusers}", "with the LoRA alone it takes the base model's scheduler: wrong",
)  # fmt: skip

DETERMINISTIC = [
    Guide("diffusers alone", "`{lora}`",
          '`DDIMScheduler` with `timestep_spacing="trailing"`, `set_alpha_to_one=True`, '
          "`clip_sample=False`; {steps} steps, `guidance_scale=1`", "{in_diffusers}",
          'spacing "leading", the default of SD 1.5, starts elsewhere; `set_alpha_to_one=False` '
          "leaves noise (0.03); TCD too; Euler scales the first noise (0.1); the LCM scheduler "
          "adds noise between the jumps"),
    Guide("ComfyUI", "`{file}`",
          "{comfyui_node}KSampler: {steps} steps, cfg 1, `euler`, `simple`", "{simple}",
          "`sgm_uniform` makes the last call a timestep off (0.007); `normal` and `ddim_uniform` "
          "start elsewhere"),
    Guide("A1111, Forge", "`{file}`",
          "Euler, schedule type Simple, {steps} steps, CFG 1, and the setting "
          '"SGM noise multiplier" on', "{simple}",
          'without "SGM noise multiplier" the first noise is scaled (0.1); "DDIM" makes one call '
          "less and starts elsewhere"),
    INVOKEAI,
    Guide("Draw Things", "`{file}`", '"DDIM Trailing", {steps} steps, guidance 1',
          "the right timesteps", "other samplers start elsewhere"),
]  # fmt: skip
STOCHASTIC = [
    Guide("diffusers alone", "`{lora}`",
          "`LCMScheduler` with `original_inference_steps={solver_steps}`; {steps} steps, "
          "`guidance_scale=1`", "{in_diffusers}",
          "the default of 50 original steps starts elsewhere; DDIM and Euler add no noise between "
          "the jumps, which this student needs"),
    Guide("ComfyUI", "`{file}`", "{comfyui_node}KSampler: {steps} steps, cfg 1, `lcm`, `simple`",
          "{simple}", "without ModelSamplingDiscrete, or with `euler`: blurred or noisy"),
    Guide("A1111, Forge", "`{file}`", "LCM, {steps} steps, CFG 1", "not measured",
          "other samplers add no noise between the jumps"),
    INVOKEAI,
    Guide("Draw Things", "`{file}`", '"LCM", {steps} steps, guidance 1', "not measured",
          "other samplers add no noise between the jumps"),
]  # fmt: skip
UNEVEN = [
    Guide("diffusers alone", "`{lora}`",
          "{uneven_scheduler}; `timesteps={starts}`, `guidance_scale=1`", "{in_diffusers}",
          "`num_inference_steps` starts elsewhere, and DDIM takes no timesteps{uneven_warning}"),
    Guide("ComfyUI", "`{file}`",
          "{comfyui_node}ManualSigmas: `{sigmas}`; SamplerCustom: cfg 1, `{comfyui_sampler}`",
          "{by_sigmas}", "KSampler's own schedules start elsewhere; older versions have no "
          "ManualSigmas"),
    *(Guide(program, file, "", "it cannot be told timesteps: {without_timesteps}",
            "use another program")
      for program, file in (("A1111, Forge", "`{file}`"), ("InvokeAI", f"`{FUSED_FOLDER}`"),
                            ("Draw Things", "`{file}`"))),
]  # fmt: skip
"""Of students whose timesteps are not evenly spaced."""


def sampling_guides(contract: Contract, name: str) -> list[Guide]:
    """Return how each program samples a student whose files are called `name`."""
    if contract.spacing != "uniform":
        guides, near = UNEVEN, "near: next to clean data"
    elif contract.grid.sampler == "deterministic":
        guides, near = DETERMINISTIC, "near: lands a timestep off"
    else:
        guides, near = STOCHASTIC, "near: its timesteps are others"
    facts = _facts(contract, name, near)
    guides = [*FEWSTEP, *guides, *([] if is_whole_network(contract) else [PEFT])]
    return [Guide(*(entry.format_map(facts) for entry in guide)) for guide in guides]


def guidance(contract: Contract) -> str:
    """Return what to set the guidance to, in words."""
    if contract.takes_guidance:
        return "1 for the plain student; above 1 with or without a negative prompt"
    return "1 (none), and no negative prompt"


def usage_hint(contract: Contract) -> str:
    """Return in one line how to sample, for the headers of files."""
    steps, sampler = f"{contract.default_num_steps} steps", "LCM"
    if contract.spacing != "uniform":
        starts = ", ".join(map(str, contract.timesteps()))
        steps, sampler = f"timesteps {starts}", comfyui_sampler(contract)
    elif contract.grid.sampler == "deterministic":
        sampler = "DDIM trailing, or Euler with the Simple schedule"
    return f"{steps}, CFG {guidance(contract)}, sampler {sampler}"


def _facts(contract: Contract, name: str, near: str) -> dict[str, object]:
    """Return what the guides leave open; `near` is the result in diffusers where not exact."""
    steps, whole = contract.default_num_steps, is_whole_network(contract)
    starts, simple_starts = contract.timesteps(), comfyui_starts(contract, steps)
    sampling, zsnr = comfyui_sampling(contract) or ("", False)
    node = f"ModelSamplingDiscrete: `{sampling}`{', `zsnr` on' if zsnr else ''}; "
    euler = '`EulerDiscreteScheduler` with `timestep_spacing="leading"`'
    simple = by_sigmas = "exact"
    if simple_starts != starts:
        simple = f"near: starts at {', '.join(map(str, simple_starts))}"
    if ends_in_pure_noise(contract) or contract.schedule.prediction_type == "sample":
        simple = by_sigmas = "not measured"
    is_lcm = contract.grid.sampler == "stochastic"
    return {
        "lora": FULL_FILE.partition("/")[0] + "/" if whole else LORA_FILE,
        "file": f"{FUSED}{name}-fused.safetensors" if whole else f"{name}.safetensors",
        "guidance_refused": ""
        if contract.takes_guidance
        else ", and so is diffusers' default guidance of 7.5",
        "steps": steps,
        "starts": list(starts),
        "solver_steps": num_solver_steps(contract),
        "in_diffusers": "exact" if is_exact_in_diffusers(contract, steps) else near,
        "uneven_scheduler": "`LCMScheduler`" if is_lcm else euler,
        "uneven_warning": "; it warns of timesteps that are not its own" if is_lcm else "",
        "comfyui_node": node if sampling else "",
        "comfyui_sampler": comfyui_sampler(contract),
        "sigmas": comfyui_sigmas(contract, steps),
        "simple": simple,
        "by_sigmas": by_sigmas,
        "without_timesteps": "wrong" if len(contract.grid.boundaries) > 1 else "not measured",
    }

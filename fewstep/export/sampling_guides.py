"""How to sample a student: in one line, and as a table of every program's file and settings."""

import re

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from fewstep.export.artefact import FUSED, FUSED_FOLDER, is_whole_network
from fewstep.export.programs_run import with_sources
from fewstep.student.contract import FULL_FILE, LORA_FILE, Contract
from fewstep.student.other_programs import (
    comfyui_sampler,
    comfyui_sampling,
    comfyui_sigmas,
    is_exact_in_diffusers,
    linspace_starts,
    simple_starts,
)

A1111_COSTS = (
    'A1111 computes the negative prompt at CFG 1 as well, unless "Ignore negative prompt during '
    'early sampling" is 1'
)

PROMPT_NOTE = (
    "Prompts: in ComfyUI, A1111 and Forge parentheses are weights; write `\\(` and `\\)` for the "
    "characters. InvokeAI leaves them out, and double quotes, unless written so, and a word's last "
    "`+` or `-` is a weight. A prompt of more than 75 tokens is encoded in chunks there, and cut "
    "off in diffusers."
)
"""How programs read the same prompt differently."""


def prompt_note(contract: Contract) -> str:
    """Return how programs read the same prompt differently, and that a student reads chunks."""
    chunks = " This student was trained on long prompts in chunks, as they are read there."
    return PROMPT_NOTE + (chunks if contract.long_prompts == "chunks" else "")


TEMPLATES = Environment(
    loader=PackageLoader("fewstep", "export"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # Markdown
)
TEMPLATES.filters["unfolded"] = lambda text: re.sub(r"\n +", " ", text)
"""Joins each indented line to the one above it: a Markdown table's row is one line."""


def guide_table(contract: Contract, name: str) -> str:
    """Return how each program samples a student whose files are called `name`, in Markdown."""
    steps, whole = contract.default_num_steps, is_whole_network(contract)
    starts, total = contract.timesteps(), contract.grid.num_train_timesteps
    measured = not contract.schedule.ends_in_pure_noise and contract.prediction_type != "sample"
    sampling, zsnr = comfyui_sampling(contract) or ("", False)
    node = f"ModelSamplingDiscrete: `{sampling}`{', `zsnr` on' if zsnr else ''}; "
    is_exact = is_exact_in_diffusers(contract, steps)
    _, first_noise = contract.schedule.exact(torch.tensor(starts[:1]))
    table = TEMPLATES.get_template("sampling_guides.md.jinja").render(
        contract=contract,
        uneven=contract.grid.spacing != "uniform",
        deterministic=contract.sampler == "deterministic",
        whole=whole,
        lora=FULL_FILE.partition("/")[0] + "/" if whole else LORA_FILE,
        file=f"{FUSED}{name}-fused.safetensors" if whole else f"{name}.safetensors",
        fused=FUSED_FOLDER,
        steps=steps,
        starts=list(starts),
        solver_steps=contract.grid.num_steps,
        first_noise=f"{first_noise.item():.4f}",
        exact_in_diffusers=is_exact,
        a1111_costs=A1111_COSTS,
        comfyui_node=node if sampling else "",
        comfyui_sampler=comfyui_sampler(contract),
        comfyui_is_measured=measured,
        simple=_simple_result(contract) if measured else "not measured",
        linspace=", ".join(map(str, linspace_starts(total, steps))),
        sigmas=comfyui_sigmas(contract, steps),
    )
    return with_sources(table.strip(), contract)


def _simple_result(contract: Contract) -> str:
    """Return in words what the schedule "simple" makes of a student."""
    steps, total = contract.default_num_steps, contract.grid.num_train_timesteps
    starts = simple_starts(total, steps)
    if starts == contract.timesteps():
        return "exact"
    return f"near: starts at {', '.join(map(str, starts))}"


def guidance(contract: Contract) -> str:
    """Return what to set the guidance to, in words."""
    if contract.takes_guidance:
        return "1 for the plain student; above 1 with or without a negative prompt"
    return "1 (none), and no negative prompt"


def usage_hint(contract: Contract) -> str:
    """Return in one line how to sample, for the headers of files."""
    steps, sampler = f"{contract.default_num_steps} steps", "LCM"
    if contract.grid.spacing != "uniform":
        starts = ", ".join(map(str, contract.timesteps()))
        steps, sampler = f"timesteps {starts}", comfyui_sampler(contract)
    elif contract.sampler == "deterministic":
        sampler = "DDIM trailing, or Euler with the Simple schedule"
    return f"{steps}, CFG {guidance(contract)}, sampler {sampler}"


def a1111_hint(contract: Contract) -> str:
    """Return in one line how A1111 and Forge sample, for the notes that they show."""
    if contract.grid.spacing != "uniform":
        starts = ", ".join(map(str, contract.timesteps()))
        return f"sample it elsewhere: it needs timesteps {starts}, which cannot be set here"
    sampler = 'LCM, schedule type Simple (Forge: Turbo, and the setting "SGM noise multiplier" on)'
    if contract.sampler == "deterministic":
        sampler = 'Euler, schedule type Simple, and the setting "SGM noise multiplier" on'
    return f"{contract.default_num_steps} steps, CFG {guidance(contract)}, sampler {sampler}"

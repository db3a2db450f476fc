"""How to sample a student: in one line, and as a table of every program's file and settings."""

import re

from jinja2 import Environment, PackageLoader, StrictUndefined

from fewstep.export.artefact import FUSED, FUSED_FOLDER, is_whole_network
from fewstep.student.contract import FULL_FILE, LORA_FILE, Contract
from fewstep.student.other_programs import (
    comfyui_sampler,
    comfyui_sampling,
    comfyui_sigmas,
    comfyui_starts,
    is_exact_in_diffusers,
)

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
    starts, simple_starts = contract.timesteps(), comfyui_starts(contract, steps)
    simple = f"near: starts at {', '.join(map(str, simple_starts))}"
    measured = not contract.schedule.ends_in_pure_noise and contract.prediction_type != "sample"
    sampling, zsnr = comfyui_sampling(contract) or ("", False)
    node = f"ModelSamplingDiscrete: `{sampling}`{', `zsnr` on' if zsnr else ''}; "
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
        exact_in_diffusers=is_exact_in_diffusers(contract, steps),
        comfyui_node=node if sampling else "",
        comfyui_sampler=comfyui_sampler(contract),
        comfyui_is_measured=measured,
        simple=("exact" if simple_starts == starts else simple) if measured else "not measured",
        sigmas=comfyui_sigmas(contract, steps),
    )
    return table.strip()


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

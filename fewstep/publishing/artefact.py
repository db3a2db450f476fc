"""Everything that an artefact's folder holds, written for every reader."""

import json
import string
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from fewstep.errors import UserError
from fewstep.files import sha256_of, write_file
from fewstep.publishing.card import Card, write_card
from fewstep.publishing.comfyui import workflow
from fewstep.publishing.formats import (
    modules,
    rank,
    write_diffusers_lora,
    write_kohya_lora,
    write_peft_lora,
)
from fewstep.publishing.readers import usage_hint
from fewstep.sampling.contract import CONTRACT_FILE, FULL_FILE, SCHEDULER_FILE, Contract
from fewstep.sampling.stock import scheduler_config

LETTERS = frozenset(string.ascii_letters + string.digits + "_.")
CARD_FILE, WORKFLOW_FILE = "README.md", "comfyui.json"
SKIPPED = ("scheduler", "optimizer", "checkpoint")
"""Words in a file's name for which diffusers passes it by."""
TAKEN_FOR_LCM = "lcm"
"""A word in a file's name for which some programs choose another sampler."""

KNOWN_BASES = {
    768: ("sd_v1", "False", "stable-diffusion-v1", "SD1"),
    1024: ("sd_v2", "True", "stable-diffusion-v2", "SD2"),
}
"""By the width of the text encoder: kohya's version and v2, modelspec's architecture, A1111's."""


@dataclass(frozen=True)
class Artefact:
    """A student and all that is said about it.

    `weights` are a folded LoRA by PEFT's plain names, or, with `network_config`, a whole UNet.
    `preview` is a PNG file's bytes.

    Raises:
        UserError: if a file of this name would be passed over or misread.
    """

    name: str
    contract: Contract
    weights: Mapping[str, Tensor]
    network_config: Mapping[str, Any] | None = None
    preview: bytes | None = None
    card: Card = field(default_factory=Card)

    def __post_init__(self) -> None:
        check_name(self.name)

    def write(self, folder: Path) -> None:
        """Write all files, then the contract with the sha256 of each, then the card."""
        if self.network_config is not None:
            write_file(folder / FULL_FILE, save(dict(self.weights), {"format": "pt"}))
            text = json.dumps(dict(self.network_config), indent=2, sort_keys=True) + "\n"
            write_file(folder / "unet" / "config.json", text)
        else:
            write_diffusers_lora(folder, self.weights)
            write_peft_lora(folder, self.weights)
            write_kohya_lora(folder / f"{self.name}.safetensors", self.weights, self.header)
            write_file(folder / f"{self.name}.json", self.sidecar)
        if self.preview:
            write_file(folder / f"{self.name}.png", self.preview)
        config = json.dumps(scheduler_config(self.contract), indent=2, sort_keys=True) + "\n"
        write_file(folder / SCHEDULER_FILE, config)
        write_file(folder / WORKFLOW_FILE, workflow(self.contract, self.main_file))
        contract = replace(self.contract, files=digests(folder))
        write_file(folder / CONTRACT_FILE, contract.to_json())
        card = replace(self.card, preview=f"{self.name}.png" if self.preview else None)
        write_file(folder / CARD_FILE, write_card(contract, self.name, card))

    @property
    def main_file(self) -> str:
        """The file that programs with a page of their own load."""
        is_full = self.network_config is not None
        return f"{self.name}-fused.safetensors" if is_full else f"{self.name}.safetensors"

    @property
    def header(self) -> dict[str, str]:
        """The kohya file's metadata, as strings, without paths and prompts."""
        contract, size = self.contract, str(rank(self.weights))
        told = {
            "ss_output_name": self.name,  # A1111 calls the LoRA so in prompts
            "ss_network_module": "networks.lora",
            "ss_network_dim": size,
            "ss_network_alpha": size,
            "ss_seed": str(contract.train.get("seed", "")),
            "ss_steps": str(contract.train.get("steps", "")),
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.title": self.name,
            "modelspec.prediction_type": contract.schedule.prediction_type.split("_")[0],
            "modelspec.usage_hint": usage_hint(contract),
        }
        if any(weight.dim() == 4 and weight.shape[-1] > 1 for weight in self.weights.values()):
            told["ss_network_args"] = json.dumps({"conv_dim": size, "conv_alpha": size})
        if base := self._base:
            version, is_v2, architecture, _ = base
            told |= {
                "ss_base_model_version": version,
                "ss_v2": is_v2,
                "modelspec.architecture": f"{architecture}/lora",
            }
        if self.card.license:
            told["modelspec.license"] = self.card.license
        return {key: value for key, value in told.items() if value}

    @property
    def sidecar(self) -> str:
        """What A1111 shows of the LoRA, and fills in."""
        told = {"notes": usage_hint(self.contract), "preferred weight": 1.0}
        if self._base:
            told["sd version"] = self._base[3]
        return json.dumps(told, indent=2) + "\n"

    @property
    def _base(self) -> tuple[str, str, str, str] | None:
        """What the base model is called, by the width of the prompts that its attention reads."""
        keys = (m for m in modules(self.weights) if m.endswith(".attn2.to_k"))
        width = next((self.weights[f"{m}.lora_A.weight"].shape[1] for m in keys), 0)
        return KNOWN_BASES.get(width)


def check_name(name: str) -> None:
    """Refuse a name for files that programs would pass over or misread.

    Raises:
        UserError: naming what is wrong with it.
    """
    if not name or set(name) - LETTERS - {"-"} or name.startswith((".", "-")):
        raise UserError(f"--name is {name!r}; use letters, digits and - _ . in it alone")
    for word in (*SKIPPED, TAKEN_FOR_LCM):
        if word in name.lower():
            raise UserError(
                f"--name is {name!r}; files with {word!r} in their name are passed over or misread "
                "by some programs: choose another"
            )


def name_from(run: Path) -> str:
    """Return a name for the files of a run, from that of its folder.

    >>> name_from(Path("runs/my LCM run"))
    'fewstep-my-run'
    """
    name = run.resolve().name.lower()
    for word in (*SKIPPED, TAKEN_FOR_LCM):
        name = name.replace(word, "")
    parts = "".join(c if c in LETTERS else " " for c in name).split()
    return "-".join(["fewstep", *parts])


def digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file in the folder, by its name below it."""
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def halved(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the weights in another precision.

    Raises:
        UserError: if one does not fit into its range.
    """
    cast = {name: weight.to(dtype) for name, weight in weights.items()}
    if lost := [name for name, weight in cast.items() if not weight.isfinite().all()]:
        raise UserError(f"{lost[0]} does not fit into {dtype}; export with --precision fp32")
    return cast

"""Everything that an artefact's folder holds, written for every reader."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from fewstep.errors import UserError
from fewstep.export.card import Card, write_card
from fewstep.export.comfyui import workflow
from fewstep.export.lora_formats import write_diffusers_lora, write_kohya_lora, write_peft_lora
from fewstep.export.metadata import Header
from fewstep.export.names import CARD_FILE, WORKFLOW_FILE, check_name
from fewstep.files import sha256_of, write_file
from fewstep.student.contract import CONTRACT_FILE, FULL_FILE, SCHEDULER_FILE, Contract
from fewstep.student.other_programs import scheduler_config

FULL_CONFIG = "unet/config.json"


@dataclass(frozen=True)
class Artefact:
    """A student and all that is said about it.

    `weights` are a folded LoRA by PEFT's plain names, or, with `network_config`, a whole UNet.
    `preview` is a PNG file's bytes.

    Raises:
        UserError: if a file of this name would be passed over, misread, or in another one's place.
    """

    name: str
    contract: Contract
    weights: Mapping[str, Tensor]
    network_config: Mapping[str, Any] | None = None
    preview: bytes | None = None
    card: Card = field(default_factory=Card)

    def __post_init__(self) -> None:
        check_name(self.name)

    def write(self, folder: Path, add: Callable[[Path], None] = lambda folder: None) -> None:
        """Write all files, and what `add` writes, then the contract that seals them, and the card.

        The contract has the sha256 of each.
        """
        if self.network_config is not None:
            self._write_network(folder, self.network_config)
        else:
            write_diffusers_lora(folder, self.weights)
            write_peft_lora(folder, self.weights)
            write_kohya_lora(folder / f"{self.name}.safetensors", self.weights, self.header.kohya())
            write_file(folder / f"{self.name}.json", self.header.sidecar())
        if self.preview:
            write_file(folder / f"{self.name}.png", self.preview)
        write_file(folder / SCHEDULER_FILE, as_json(scheduler_config(self.contract)))
        write_file(folder / WORKFLOW_FILE, workflow(self.contract, self.main_file))
        add(folder)
        contract = replace(self.contract, files=digests(folder))
        write_file(folder / CONTRACT_FILE, contract.to_json())
        card = replace(self.card, preview=f"{self.name}.png" if self.preview else None)
        write_file(folder / CARD_FILE, write_card(contract, self.name, card))

    def _write_network(self, folder: Path, config: Mapping[str, Any]) -> None:
        write_file(folder / FULL_FILE, save(dict(self.weights), {"format": "pt"}))
        told = {name: value for name, value in config.items() if name != "_name_or_path"}
        write_file(folder / FULL_CONFIG, as_json(told))

    @property
    def main_file(self) -> str:
        """The file that programs with a page of their own load."""
        is_full = self.network_config is not None
        return f"{self.name}-fused.safetensors" if is_full else f"{self.name}.safetensors"

    @property
    def header(self) -> Header:
        """What its files say of themselves."""
        return Header(self.name, self.contract, self.weights, self.card.license)


def as_json(config: Mapping[str, Any]) -> str:
    """Return a config as the text of its file."""
    return json.dumps(dict(config), indent=2, sort_keys=True) + "\n"


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

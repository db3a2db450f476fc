"""A student with the metadata of its files, and the names of those files."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from fewstep.errors import UserError
from fewstep.evaluation.results import Results
from fewstep.student.contract import CONTRACT_FILE, LORA_FILE, Contract

CARD_FILE, WORKFLOW_FILE = "README.md", "comfyui.json"
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
FUSED = "fused/"
"""The folder of whole models with the student inside."""
FUSED_FOLDER = f"{FUSED}diffusers/"

OTHERS = (CONTRACT_FILE, CARD_FILE, WORKFLOW_FILE, LORA_FILE, PEFT_FILE, PEFT_CONFIG)
TAKEN = frozenset(PurePosixPath(file).stem.lower() for file in OTHERS)
"""The names of an artefact's other files, which one more file of that name would replace."""
MISREAD = ("scheduler", "optimizer", "checkpoint", "lcm")
"""Words in a file's name that make diffusers skip it, or others choose another sampler."""


@dataclass(frozen=True)
class Artefact:
    """A student with the metadata of its files.

    `weights` are a folded LoRA by PEFT's names or, with `network_config`, a whole UNet.
    `preview` is a PNG file's bytes, `settings` are the run's as TOML, `results` have the rows that
    the card shows.

    Raises:
        UserError: if files of this name would be skipped, misread, or replace another file.
    """

    name: str
    contract: Contract
    weights: Mapping[str, Tensor]
    network_config: Mapping[str, Any] | None = None
    preview: bytes | None = None
    license: str | None = None
    settings: str | None = None
    results: Results | None = None

    def __post_init__(self) -> None:
        check_name(self.name)

    def of_base(self, hub_id: str, revision: str | None) -> "Artefact":
        """Return the artefact with its base model named by what others know it by."""
        known = {k: v for k, v in self.contract.base.items() if k != "hub_id"}
        base = {**known, "id": hub_id, "revision": revision, "variant": None, "config": None}
        return replace(self, contract=replace(self.contract, base=base))


def is_whole_network(contract: Contract) -> bool:
    """Return whether all of the student's weights were trained, and not a LoRA."""
    return contract.adapter.get("preset") == "full"


def check_name(name: str) -> None:
    """Refuse a name for files that programs would skip or misread, or that is taken.

    Raises:
        UserError: naming what is wrong with it.
    """
    if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
        raise UserError(f"--name is {name!r}; use letters, digits and - _ . in it alone")
    if name.lower() in TAKEN:
        raise UserError(f"--name is {name!r}, like another file of the artefact: choose another")
    if word := next((word for word in MISREAD if word in name.lower()), None):
        raise UserError(
            f"--name is {name!r}; some programs skip or misread files with {word!r} in their "
            "name: choose another"
        )


def name_from(run: Path) -> str:
    """Return a name for the files of a run, from that of its folder.

    >>> name_from(Path("runs/my LCM run")), name_from(Path("runs/lcm"))
    ('fewstep-my-run', 'fewstep-student')
    """
    name = re.sub("|".join(MISREAD), " ", run.resolve().name.lower())
    return "-".join(["fewstep", *(re.findall(r"[\w.]+", name, re.ASCII) or ["student"])])


def name_of(files: Iterable[str]) -> str | None:
    """Return the name that the files of an artefact already have."""
    paths = map(PurePosixPath, files)
    stems = (p.stem for p in paths if len(p.parts) == 1 and p.suffix in (".safetensors", ".png"))
    return next((stem for stem in stems if stem.lower() not in TAKEN), None)

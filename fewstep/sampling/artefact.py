"""Reading an artefact: its contract, its weights and the base model that it stands on."""

# of libraries without types
# pyright: reportArgumentType=false

import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fewstep.models.adapters import merge_lora
from fewstep.models.base import ModelFamily
from fewstep.models.loading import load_model
from fewstep.sampling.contract import (
    CONTRACT_FILE,
    FULL_FILE,
    LORA_FILE,
    SCHEDULER_FILE,
    Contract,
)
from fewstep.sampling.trust import (
    ArtefactError,
    check_inside,
    check_scheduler,
    checked,
    missing,
)

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
NEEDED = {"base": {"id": str, "fingerprint": str}, "data": {"resolution": int}}
"""The entries of a contract without which nothing can be painted."""


def is_artefact(source: str | Path) -> bool:
    """Return whether a source is an artefact, or a run that holds one, and not a plain model."""
    folder = Path(source)
    if folder.exists():
        return any((folder / part / CONTRACT_FILE).is_file() for part in ("", "artefact"))
    if not HUB_ID.fullmatch(str(source)):
        return False
    from huggingface_hub import hf_hub_download

    try:
        return bool(hf_hub_download(str(source), CONTRACT_FILE))
    except (OSError, ValueError):  # not there, or offline and never downloaded
        return False


def open_folder(source: str | Path, revision: str | None = None) -> Path:
    """Return the folder of an artefact: of a run that holds one, or downloaded from the Hub.

    Raises:
        ArtefactError: if there is no such folder, and nothing of that name on the Hub.
    """
    folder = Path(source)
    if (folder / "artefact").is_dir():
        return folder / "artefact"
    if folder.is_dir():
        return folder
    if not HUB_ID.fullmatch(str(source)):
        raise ArtefactError(f"{source} is neither a folder nor a Hub id such as name/model")
    from huggingface_hub import snapshot_download

    wanted = [CONTRACT_FILE, LORA_FILE, SCHEDULER_FILE, "unet/*.safetensors", "unet/*.json"]
    try:
        return Path(snapshot_download(str(source), revision=revision, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ArtefactError(
            f"{source} is no folder, and the Hub did not give it ({reason}); check the name, the "
            "network, and for a private one the login (hf auth login)"
        ) from error


def read_contract(folder: Path) -> Contract:
    """Read and check the contract of an artefact folder.

    Raises:
        ArtefactError: if it is missing or damaged, contradicts itself, or names no base model.
    """
    path = folder / CONTRACT_FILE
    try:
        contract = Contract.from_json(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError as error:
        raise missing(folder, CONTRACT_FILE) from error
    except (OSError, ValueError) as error:
        raise ArtefactError(f"cannot read the artefact {folder}: {error}") from error
    for part, entries in NEEDED.items():
        for entry, kind in entries.items():
            if not isinstance(getattr(contract, part).get(entry), kind):
                raise ArtefactError(f"{path} lacks {part}.{entry}; export the run again")
    return contract


def read_artefact(
    source: str | Path, revision: str | None = None
) -> tuple[Contract, dict[str, Tensor]]:
    """Read the contract and the weights: a folded LoRA by PEFT's plain names, or a whole network.

    Raises:
        ArtefactError: if a file is missing, damaged, pickled, outside the folder, or another than
            the one that the contract was written for.
    """
    folder = open_folder(source, revision)
    contract = read_contract(folder)
    is_full = contract.adapter.get("preset") == "full"
    for name in contract.files:
        check_inside(folder, name)
    weights = checked(folder, FULL_FILE if is_full else LORA_FILE, contract)
    if (folder / SCHEDULER_FILE).exists():
        check_scheduler(folder, contract)
    try:
        tensors = load_file(weights)
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtefactError(
            f"{weights} is no whole safetensors file ({error}); get the artefact again, or export "
            "the run again"
        ) from error
    return contract, {name.removeprefix("unet."): value for name, value in tensors.items()}


def load_base(
    contract: Contract,
    artefact: str | Path,
    base: str | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ModelFamily:
    """Load the model that an artefact was distilled from, or `base` in its place.

    Raises:
        ArtefactError: if its weights are not those that were distilled.
    """
    named = contract.base
    which = {key: named.get(key) for key in ("revision", "variant", "config")}
    family = load_model(base or named["id"], dtype=dtype, device=device, **({} if base else which))
    if family.fingerprint != named["fingerprint"]:
        raise ArtefactError(
            f"{artefact} was distilled from other weights than those of {base or named['id']}; "
            f"pass base= with the model that it was made from ({named['id']})"
        )
    return family


def student_network(
    family: ModelFamily, contract: Contract, weights: Mapping[str, Tensor]
) -> nn.Module:
    """Return a copy of the family's network with a student's folded LoRA, or with its weights."""
    network = deepcopy(family.network)
    if contract.adapter.get("preset") == "full":
        network.load_state_dict(weights)
        return network
    return merge_lora(network, weights)

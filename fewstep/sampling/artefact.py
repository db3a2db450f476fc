"""Reading an artefact: its contract, its weights and the base model that it stands on."""

import json
import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path, PurePosixPath

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fewstep.errors import UserError
from fewstep.files import sha256_of
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
from fewstep.sampling.stock import scheduler_config

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth", "unet/*.bin")
NEEDED = {"base": {"id": str, "fingerprint": str}, "data": {"resolution": int}}
"""The entries of a contract without which nothing can be painted."""


class ArtefactError(UserError):
    """An artefact that cannot be used; the message says what is wrong with it."""


def is_artefact(source: str | Path) -> bool:
    """Return whether a source is an artefact, or a run that holds one, and not a plain model."""
    folder = Path(source)
    if folder.exists():
        return any((folder / part / CONTRACT_FILE).is_file() for part in ("", "artefact"))
    if not HUB_ID.fullmatch(str(source)):
        return False
    from huggingface_hub import file_exists

    try:
        return file_exists(str(source), CONTRACT_FILE)
    except (OSError, ValueError):  # offline: what was downloaded before
        from huggingface_hub import try_to_load_from_cache

        return isinstance(try_to_load_from_cache(str(source), CONTRACT_FILE), str)


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
        raise _missing(folder, CONTRACT_FILE) from error
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
        _check_inside(folder, name)
    weights = _checked(folder, FULL_FILE if is_full else LORA_FILE, contract)
    if (folder / SCHEDULER_FILE).exists():
        _check_scheduler(folder, contract)
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


def _missing(folder: Path, name: str) -> ArtefactError:
    pickles = sorted(p.name for pattern in PICKLES for p in folder.glob(pattern))
    if pickles and name != CONTRACT_FILE:
        return ArtefactError(
            f"{folder} has its weights in {pickles[0]}, which is pickled: reading it may run code "
            f"that somebody put there. Get them as safetensors ({name})"
        )
    return ArtefactError(
        f"{folder} is no whole artefact: {name} is missing; give a finished run, or export it again"
    )


def _check_inside(folder: Path, name: str) -> None:
    """Refuse a file whose name, or whose link, leads out of the artefact's folder.

    What the Hub's cache keeps is linked: from `snapshots/COMMIT` to the repository's own `blobs`.
    """
    path = PurePosixPath(name)
    home = folder.parents[1] if folder.parent.name == "snapshots" else folder
    leads_out = path.is_absolute() or ".." in path.parts or "\\" in name
    if leads_out or not (folder / path).resolve().is_relative_to(home.resolve()):
        raise ArtefactError(
            f"{folder / CONTRACT_FILE} names {name!r}, which lies outside of the artefact's "
            "folder; do not use it unless you know who made it, and then export the run again"
        )


def _checked(folder: Path, name: str, contract: Contract) -> Path:
    """Return the path of a file that is there, and is the one that the contract tells of."""
    _check_inside(folder, name)
    path = folder / name
    if not path.is_file():
        raise _missing(folder, name)
    told = contract.files.get(name)
    if told is not None and told != sha256_of(path):
        raise ArtefactError(
            f"{path} is not the file that {CONTRACT_FILE} was written for (its sha256 differs): "
            "one of them was changed or damaged; get the artefact again, or export the run again"
        )
    return path


def _check_scheduler(folder: Path, contract: Contract) -> None:
    """Refuse a scheduler config that would sample the student wrongly in other programs."""
    path = folder / SCHEDULER_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        entries = {k: v for k, v in config.items() if k != "_diffusers_version"}
    except (OSError, ValueError, AttributeError) as error:
        raise ArtefactError(f"cannot read {path}: {error}; export the run again") from error
    wanted = scheduler_config(contract)
    for name in sorted(entries.keys() | wanted.keys()):
        if entries.get(name) != wanted.get(name):
            raise ArtefactError(
                f"{path} has {name} = {entries.get(name)!r}, where this student needs "
                f"{wanted.get(name)!r} to be sampled rightly; export the run again"
            )

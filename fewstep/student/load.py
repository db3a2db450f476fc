"""Reading an artefact: its contract, its weights and the base model that it stands on."""

# of libraries without types
# pyright: reportArgumentType=false

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fewstep.models.adapters import lora_modules, merge_lora
from fewstep.models.architectures import ARCHITECTURES, known_architecture
from fewstep.models.base import ModelError, ModelFamily
from fewstep.models.loading import load_model
from fewstep.student.contract import (
    CONTRACT_FILE,
    FULL_FILE,
    LORA_FILE,
    SCHEDULER_FILE,
    Contract,
)
from fewstep.student.integrity import (
    ArtefactError,
    check_inside,
    check_scheduler,
    checked,
    missing,
)
from fewstep.student.locate import open_folder

NEEDED = {"base": {"id": str, "fingerprint": str}, "data": {"resolution": int}}
"""The entries of a contract without which nothing can be generated."""


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
            value = getattr(contract, part).get(entry)
            if type(value) is not kind or not value or (kind is int and value < 0):
                raise ArtefactError(
                    f"{path} has {part}.{entry} = {value!r}, with which nothing can be generated; "
                    "get the artefact again"
                )
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
    if SCHEDULER_FILE in contract.files or (folder / SCHEDULER_FILE).exists():
        check_scheduler(folder, contract)
    try:
        tensors = load_file(weights)
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtefactError(
            f"{weights} is no whole safetensors file ({error}); get the artefact again, or export "
            "the run again"
        ) from error
    tensors = {name.removeprefix("unet."): value for name, value in tensors.items()}
    if not is_full:
        _check_lora(weights, tensors, contract)
    return contract, tensors


def _check_lora(path: Path, weights: Mapping[str, Tensor], contract: Contract) -> None:
    """Refuse a file whose LoRA is not the whole one that was trained."""
    try:
        found = len(lora_modules(weights))
    except ModelError as error:
        raise ArtefactError(f"{path}: {error}; export the run again") from error
    told = contract.adapter.get("num_modules", found)
    if found != told:
        raise ArtefactError(
            f"{path} changes {found} modules, and {told} were trained; export the run again"
        )


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
        ArtefactError: if it cannot be loaded, or its weights, noise levels or kind of prediction
            are not those that were distilled.
    """
    named, source = contract.base, base or contract.base["id"]
    way_out = f"give base= (--base) the model that it was made from ({named['id']})"
    try:
        family = load_model(source, dtype=dtype, device=device, **_reading(named, base))
    except (ModelError, OSError) as error:
        raise ArtefactError(f"cannot load the base model of {artefact}: {error}; {way_out}, or a "
                            "copy of it that is on this machine") from error  # fmt: skip
    predicts = family.scheduler_config.get("prediction_type", "epsilon")
    for difference, same in {
        "other weights than those": family.fingerprint == named["fingerprint"],
        "another noise schedule than that": family.schedule.digest == contract.schedule.digest,
        "another prediction_type than that": predicts == contract.prediction_type,
    }.items():
        if not same:
            raise ArtefactError(
                f"{artefact} was distilled from {difference} of {source}; {way_out}"
            )
    return family


def _reading(named: Mapping[str, Any], base: str | None) -> dict[str, Any]:
    """Return how the base model is read, or a copy of it in its place.

    A copy has its own revision and variant. Where it is a checkpoint file, it is built as the named
    one was, or as that Hub id is known to be.
    """
    config = named.get("config")
    if base is None:
        return {key: named.get(key) for key in ("revision", "variant", "config")}
    is_here = config in ARCHITECTURES or (config is not None and Path(config).is_dir())
    return {"config": config if is_here else known_architecture(named["id"])}


def student_network(
    family: ModelFamily, contract: Contract, weights: Mapping[str, Tensor]
) -> nn.Module:
    """Return a copy of the family's network with a student's folded LoRA, or with its weights.

    Raises:
        ArtefactError: if the weights of a whole network are not those of one like the family's.
        ModelError: if a LoRA does not fit the network.
    """
    network = deepcopy(family.network)
    if contract.adapter.get("preset") != "full":
        return merge_lora(network, weights)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:  # it lists every weight that is wrong, one a line
        reason = " ".join(str(error).split())[:200]
        raise ArtefactError(
            f"the student's network is not whole, or not one like its base model's ({reason}…); "
            "get the artefact again"
        ) from error
    return network

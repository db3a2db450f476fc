"""Reading an artefact: its contract, its weights and the base model that it stands on."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fewstep.errors import UserError
from fewstep.models.adapters import merge_lora
from fewstep.models.base import ModelFamily
from fewstep.models.loading import load_model
from fewstep.sampling.contract import CONTRACT_FILE, FULL_FILE, LORA_FILE, Contract


class ArtefactError(UserError):
    """An artefact that cannot be used; the message says what is wrong with it."""


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
    which = {"revision": named.get("revision"), "variant": named.get("variant")}
    family = load_model(base or named["id"], dtype=dtype, device=device, **({} if base else which))
    if family.fingerprint != named["fingerprint"]:
        raise ArtefactError(
            f"{artefact} was distilled from other weights than those of {base or named['id']}; "
            f"pass base= with the model that it was made from ({named['id']})"
        )
    return family


def read_artefact(folder: Path) -> tuple[Contract, dict[str, Tensor]]:
    """Read the contract and the folded LoRA of an artefact, or of a run that holds one.

    Raises:
        ArtefactError: if one of the two is missing or damaged.
    """
    folder = folder / "artefact" if (folder / "artefact").is_dir() else folder
    try:
        contract = Contract.from_json(
            (folder / CONTRACT_FILE).read_text(encoding="utf-8"), folder / CONTRACT_FILE
        )
        is_full = contract.adapter.get("preset") == "full"
        tensors = load_file(folder / (FULL_FILE if is_full else LORA_FILE))
    except FileNotFoundError as error:
        raise ArtefactError(
            f"{folder} is no artefact: {Path(error.filename or str(error)).name} is missing; give "
            "a finished run or an artefact folder"
        ) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtefactError(f"cannot read the artefact {folder}: {error}") from error
    return contract, {name.removeprefix("unet."): value for name, value in tensors.items()}


def student_network(
    family: ModelFamily, contract: Contract, weights: Mapping[str, Tensor]
) -> nn.Module:
    """Return a copy of the family's network with a student's folded LoRA, or with its weights."""
    network = deepcopy(family.network)
    if contract.adapter.get("preset") == "full":
        network.load_state_dict(weights)
        return network
    return merge_lora(network, weights)

"""A student's networks: the base model that it was distilled from, and its own."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.models.adapters import merge_lora
from fewstep.models.architectures import ARCHITECTURES, known_architecture
from fewstep.models.base import ModelError, ModelFamily, prediction_type
from fewstep.models.loading import load_model
from fewstep.student.contract import Contract
from fewstep.student.load import ArtefactError


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
        ArtefactError: if it cannot be loaded, or its weights, noise levels or prediction type are
            not those that were distilled.
    """
    source, options = base or contract.base["id"], _base_options(contract.base, base)
    hint = f"give base= (--base) the model that it was made from ({contract.base['id']})"
    try:
        family = load_model(
            source, dtype=dtype, device=device, long_prompts=contract.long_prompts, **options
        )
    except (ModelError, OSError) as error:
        raise ArtefactError(
            f"cannot load the base model of {artefact}: {error}; {hint}, or a copy of it that is "
            "on this machine"
        ) from error
    if difference := difference_to(family, contract):
        reason = f"from another model than {source}: they differ in their {difference}"
        raise ArtefactError(f"{artefact} was distilled {reason}; {hint}")
    return family


def difference_to(family: ModelFamily, contract: Contract) -> str | None:
    """Return in what a model differs from the one that was distilled; None if it is the same."""
    if prediction_type(family) != contract.prediction_type:
        return "prediction type"
    if family.schedule.digest != contract.schedule.digest:
        return "noise schedule"
    return None if family.fingerprint == contract.base["fingerprint"] else "weights"


def _base_options(named: Mapping[str, Any], base: str | None) -> dict[str, Any]:
    """Return how to load the base model that is named, or `base`, a copy of it.

    A copy has its own revision and variant; a checkpoint file is built as the named model was, or
    as that Hub id is known to be.
    """
    if base is None:
        return {key: named.get(key) for key in ("revision", "variant", "config")}
    config = named.get("config")
    is_here = config in ARCHITECTURES or (config is not None and Path(config).is_dir())
    return {"config": config if is_here else known_architecture(named["id"])}


def student_network(
    family: ModelFamily,
    contract: Contract,
    weights: Mapping[str, Tensor],
    *,
    in_place: bool = False,
) -> nn.Module:
    """Return a copy of the family's network with a student's folded LoRA, or with its weights.

    With `in_place` it is the family's own, and no second network takes memory.

    Raises:
        ArtefactError: if the weights of a whole network are not those of one like the family's.
        ModelError: if a LoRA does not fit the network.
    """
    network = family.network if in_place else deepcopy(family.network)
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

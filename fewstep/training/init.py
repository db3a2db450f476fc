"""`train.init`: training that starts from a finished student, and not from its teacher."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fewstep.errors import SettingError, UserError
from fewstep.models.adapters import merge_lora
from fewstep.student.contract import Contract
from fewstep.student.load import artefact_folder, is_artefact, read_artefact, read_contract
from fewstep.student.networks import difference_to
from fewstep.training.networks import Networks, lora_alpha


def start_from(source: str, networks: Networks) -> None:
    """Give the student and its average the weights of the artefact, or finished run, `source`.

    A LoRA may be of a lower rank, and of fewer modules, than the run's: what is more begins as it
    does without `train.init`.

    Raises:
        UserError: if it is no artefact, or its student is of another base, noise schedule or
            prediction type, jumps from other timesteps, or does not fit into the run's adapter.
    """
    try:
        contract, weights = read_artefact(source)
    except UserError as error:
        raise _no_student(source, error) from error
    check_base(source, contract, networks)
    check_timesteps(source, contract, networks)
    roles, adapter = networks.roles, networks.config.adapter
    if adapter is not None:
        check_adapter(source, contract, weights, networks)
        put_lora(weights, roles.trained, lora_alpha(adapter) / adapter.rank)
    elif contract.adapter.get("preset") == "full":
        with torch.no_grad():
            for name, weight in roles.trained.items():
                weight.copy_(weights[name])
    else:
        merge_lora(roles.network, weights)
    with torch.no_grad():
        for name, average in roles.averaged.items():
            average.copy_(roles.trained[name])


def check_init(source: str) -> None:
    """Refuse what is no finished student, without reading its weights.

    Raises:
        SettingError: saying why.
    """
    try:
        if not is_artefact(source):
            read_contract(artefact_folder(source))
    except UserError as error:
        raise _no_student(source, error) from error


def _no_student(source: str, error: UserError) -> SettingError:
    return SettingError(f"train.init is {source!r}, no finished student: {error}")


def check_base(source: str, contract: Contract, networks: Networks) -> None:
    """Refuse a student of another base model, prediction type or noise schedule."""
    if difference := difference_to(networks.family, contract):
        raise SettingError(
            f"train.init is {source!r}, a student of another model than model.base "
            f"{networks.config.model.base!r}: they differ in their {difference}; set model.base to "
            f"the student's, {contract.base['id']!r}, or start from a student of this base"
        )


def check_timesteps(source: str, contract: Contract, networks: Networks) -> None:
    """Refuse a student that was not trained to jump from where the run's student will."""
    name, method = networks.config.method["name"], networks.method
    segments = getattr(method, "num_segments", contract.grid.num_segments)
    if contract.sampler == "deterministic" and segments != contract.grid.num_segments:
        raise SettingError(
            f"method.num_segments is {segments}, and train.init {source!r} was trained on "
            f"{contract.grid.num_segments} segments: set method.num_segments = "
            f"{contract.grid.num_segments}, or start from a student of {segments}"
        )
    ours = Contract.of(name, method, 1.0, networks.family.scheduler_config).timesteps()
    known = [*contract.sampling_timesteps.values()]
    if ours not in known:
        theirs = " or ".join(str(list(timesteps)) for timesteps in known)
        raise SettingError(
            f"train.init is {source!r}, a student that jumps from timesteps {theirs}, and this run "
            f"will be sampled at {list(ours)}: give method.num_segments, num_solver_steps and "
            "spacing the student's values"
        )


def check_adapter(
    source: str, contract: Contract, weights: Mapping[str, Tensor], networks: Networks
) -> None:
    """Refuse a student that the run's LoRA cannot hold."""
    adapter, trained = networks.config.adapter, networks.roles.trained
    if contract.adapter.get("preset") == "full":
        raise SettingError(
            f"train.init is {source!r}, which was fine-tuned whole and does not fit into a LoRA: "
            "leave [adapter] out, or start from a LoRA"
        )
    rank = max(len(w) for name, w in weights.items() if ".lora_A." in name)
    fits = weights.keys() <= trained.keys()
    if adapter is not None and (rank > adapter.rank or not fits):
        raise SettingError(
            f"train.init is {source!r}, a LoRA of rank {rank} and preset "
            f"{contract.adapter.get('preset')!r}, and [adapter] has rank {adapter.rank} and preset "
            f"{adapter.preset!r}, which cannot hold it: use its preset, and {rank} or more"
        )


@torch.no_grad()
def put_lora(weights: Mapping[str, Tensor], trained: Mapping[str, Tensor], scale: float) -> None:
    """Write a LoRA with its scale folded in into the first ranks of another that has `scale`."""
    for name, value in weights.items():
        if ".lora_A." in name:
            trained[name][: len(value)] = value
        else:
            trained[name][:, : value.shape[1]] = value / scale

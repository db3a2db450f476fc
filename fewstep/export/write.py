"""The files of an artefact's folder, written for every reader."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from fewstep.errors import UserError
from fewstep.export.artefact import CARD_FILE, FUSED, FUSED_FOLDER, WORKFLOW_FILE, Artefact
from fewstep.export.card import write_card
from fewstep.export.comfyui import workflow
from fewstep.export.lora_formats import (
    in_one_order,
    write_diffusers_lora,
    write_kohya_lora,
    write_peft_lora,
)
from fewstep.export.metadata import kohya_header, modelspec, sidecar
from fewstep.files import sha256_of, write_file
from fewstep.models.base import ModelFamily
from fewstep.models.loading import quietly
from fewstep.models.saving import save_pipeline
from fewstep.models.single_file import STUDENT_KEY
from fewstep.student.contract import CONTRACT_FILE, FULL_FILE, SCHEDULER_FILE, Contract
from fewstep.student.other_programs import scheduler_config

FULL_CONFIG = "unet/config.json"


def write_student(folder: Path, artefact: Artefact) -> None:
    """Write all files of an artefact without whole models."""
    write_weights(folder, artefact)
    write_contract(folder, artefact)


def write_weights(folder: Path, artefact: Artefact) -> None:
    """Write the weights in every format and the files that programs read with them."""
    file, weights = f"{artefact.name}.safetensors", artefact.weights
    if artefact.network_config is not None:
        file = f"{artefact.name}-fused.safetensors"
        of_this_machine = ("_name_or_path", "_use_default_values")
        config = {k: v for k, v in artefact.network_config.items() if k not in of_this_machine}
        write_file(folder / FULL_FILE, save(dict(weights), {"format": "pt"}))
        write_file(folder / FULL_CONFIG, _as_json(config))
    else:
        write_diffusers_lora(folder, weights)
        write_peft_lora(folder, weights)
        blocks = artefact.contract.base.get("ldm_blocks", {})
        write_kohya_lora(folder / file, weights, kohya_header(artefact), blocks)
        write_file(folder / f"{artefact.name}.json", sidecar(artefact))
    if artefact.preview:
        write_file(folder / f"{artefact.name}.png", artefact.preview)
    if artefact.contract.grid.spacing == "uniform":
        write_file(folder / SCHEDULER_FILE, _as_json(scheduler_config(artefact.contract)))
    write_file(folder / WORKFLOW_FILE, workflow(artefact.contract, file))


def write_contract(folder: Path, artefact: Artefact) -> None:
    """Write the contract with the sha256 of each file in the folder, then the model card."""
    contract = replace(artefact.contract, files=checksums(folder))
    write_file(folder / CONTRACT_FILE, contract.to_json())
    write_file(folder / CARD_FILE, write_card(replace(artefact, contract=contract)))


def write_checkpoint(
    folder: Path, artefact: Artefact, family: ModelFamily, network: nn.Module, dtype: torch.dtype
) -> None:
    """Write `fused/NAME-fused.safetensors`, one file in the layout of SD's first release.

    Its header keeps it from being loaded as a teacher.
    """
    header = modelspec(artefact) | {STUDENT_KEY: artefact.contract.method["name"]}
    path = folder / FUSED / f"{artefact.name}-fused.safetensors"
    weights = cast_weights(family.checkpoint_weights(network), dtype)
    write_file(path, in_one_order(save(weights, {"format": "pt"} | header)))


def write_whole_model(
    folder: Path, contract: Contract, family: ModelFamily, network: nn.Module, dtype: torch.dtype
) -> None:
    """Write `fused/diffusers/`, an artefact as well, with a whole network in it.

    Its contract keeps it from being loaded as a teacher. All networks are cast where they are. For
    timesteps that are not evenly spaced it has no scheduler, so that loading it asks for one.
    """
    folder, config = folder / FUSED_FOLDER, scheduler_config(contract)
    pipeline = family.pipeline(network, config)
    with quietly():
        for component in pipeline.components.values():
            if isinstance(component, nn.Module):
                _check_range(component.to(dtype).state_dict(), dtype)
    save_pipeline(pipeline, folder)
    if contract.grid.spacing == "uniform":
        write_file(folder / SCHEDULER_FILE, _as_json(config))
    else:
        shutil.rmtree(folder / "scheduler")
        ask_for_scheduler(folder)
    whole = replace(contract, adapter={"preset": "full"}, files=checksums(folder))
    write_file(folder / CONTRACT_FILE, whole.to_json())


def ask_for_scheduler(folder: Path) -> None:
    """Take the scheduler out of a pipeline's index, so that loading it asks for one."""
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    del index["scheduler"]
    write_file(folder / "model_index.json", _as_json(index))


def checksums(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file in the folder, by its path below it."""
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def cast_weights(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the weights in another precision.

    Raises:
        UserError: if one does not fit into its range.
    """
    cast = {
        name: weight.to(dtype) if weight.is_floating_point() else weight
        for name, weight in weights.items()
    }
    _check_range(cast, dtype)
    return cast


def _check_range(weights: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    if lost := [name for name, weight in weights.items() if not weight.isfinite().all()]:
        raise UserError(f"{lost[0]} does not fit into {dtype}; export with --precision fp32")


def _as_json(config: Mapping[str, Any]) -> str:
    return json.dumps(dict(config), indent=2, sort_keys=True) + "\n"

"""Whole models with a student inside: a diffusers folder, and a checkpoint file."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from fewstep.export.names import FUSED
from fewstep.export.recipes import FUSED_FOLDER
from fewstep.export.write import Artefact, as_json, digests
from fewstep.files import write_file
from fewstep.models.base import ModelFamily
from fewstep.models.saving import save_checkpoint, save_folder
from fewstep.models.single_file import STUDENT
from fewstep.student.contract import CONTRACT_FILE, SCHEDULER_FILE, Contract
from fewstep.student.other_programs import scheduler_config


def write_checkpoint(
    folder: Path, artefact: Artefact, family: ModelFamily, network: nn.Module, dtype: torch.dtype
) -> None:
    """Write `fused/NAME-fused.safetensors`, one file in the layout of SD's first release.

    Its header keeps it from being taken for a teacher.
    """
    path = folder / FUSED / f"{artefact.name}-fused.safetensors"
    header = artefact.header.modelspec() | {STUDENT: artefact.contract.method["name"]}
    save_checkpoint(path, family, network, header, dtype)


def write_whole_model(
    folder: Path, contract: Contract, family: ModelFamily, network: nn.Module
) -> None:
    """Write `fused/diffusers/`, which is an artefact as well, with a whole network in it.

    Its contract keeps it from being taken for a teacher.
    """
    folder, config = folder / FUSED_FOLDER, scheduler_config(contract)
    save_folder(folder, family, network, config)
    write_file(folder / SCHEDULER_FILE, as_json(config))
    whole = replace(contract, adapter={"preset": "full"}, files=digests(folder))
    write_file(folder / CONTRACT_FILE, whole.to_json())

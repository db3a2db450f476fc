"""A whole model with a student inside it, for programs that load models and no adapters."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import save
from torch import nn

from fewstep.files import write_file
from fewstep.models.base import ModelFamily
from fewstep.models.loading import quietly


def save_folder(
    folder: Path, family: ModelFamily, network: nn.Module, scheduler_config: Mapping[str, Any]
) -> None:
    """Write a diffusers folder with `network` in its place and the scheduler that samples it."""
    kind = getattr(diffusers, scheduler_config["_class_name"])
    with quietly():
        pipe = family.pipeline(network, kind.from_config(dict(scheduler_config)))
        pipe.save_pretrained(folder, safe_serialization=True)
    for path in folder.glob("*/config.json"):
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings.pop("_name_or_path", None)  # where it lay on this machine
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def save_checkpoint(
    path: Path,
    family: ModelFamily,
    network: nn.Module,
    header: Mapping[str, str],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a checkpoint: one file in the layout that A1111 and ComfyUI read."""
    tensors = {
        name: weight.to(dtype) if weight.is_floating_point() else weight
        for name, weight in family.checkpoint_weights(network).items()
    }
    write_file(path, save(tensors, {"format": "pt"} | dict(header)))

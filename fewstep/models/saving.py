"""A whole model with a student inside it, for programs that load models and no adapters."""

# diffusers hands out its pipelines and networks without types
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportPrivateImportUsage=false

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import diffusers
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save
from torch import nn

from fewstep.files import write_file
from fewstep.models.base import ModelFamily
from fewstep.models.ldm import ldm_weights
from fewstep.models.loading import quietly
from fewstep.models.stable_diffusion import StableDiffusion


def save_folder(
    folder: Path, family: ModelFamily, network: nn.Module, scheduler_config: Mapping[str, Any]
) -> None:
    """Write a diffusers folder with `network` as the UNet and the scheduler that samples it."""
    model = cast(StableDiffusion, family)
    kind = getattr(diffusers, scheduler_config["_class_name"])
    with quietly():
        pipe = StableDiffusionPipeline(
            model.vae, model.text_encoder, model.tokenizer, network,
            kind.from_config(dict(scheduler_config)), None, None, requires_safety_checker=False,
        )  # fmt: skip
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
    """Write one file in the layout of Stable Diffusion's first release."""
    weights = ldm_weights(family, network)
    tensors = {
        name: weight.to(dtype) if weight.is_floating_point() else weight
        for name, weight in weights.items()
    }
    write_file(path, save(tensors, {"format": "pt"} | dict(header)))

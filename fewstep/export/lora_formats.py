"""LoRA files that other libraries load, with the scale folded into the weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from fewstep.export.artefact import PEFT_CONFIG, PEFT_FILE
from fewstep.files import write_file
from fewstep.models.ldm import unet_name
from fewstep.student.contract import LORA_FILE

A, B = ".lora_A.weight", ".lora_B.weight"

Weights = Mapping[str, Tensor]
"""A LoRA by PEFT's plain names: the module's path, then `.lora_A.weight` or `.lora_B.weight`."""

NO_BLOCKS: Mapping[str, Any] = MappingProxyType({})


def modules(weights: Weights) -> list[str]:
    """Return the paths of the modules that a LoRA changes, sorted."""
    return sorted(name.removesuffix(A) for name in weights if name.endswith(A))


def rank(weights: Weights) -> int:
    """Return the rank of a LoRA, which is also its alpha when it is folded."""
    return next(len(value) for name, value in weights.items() if name.endswith(A))


def write_diffusers_lora(folder: Path, weights: Weights) -> None:
    """Write the file that `pipe.load_lora_weights(folder)` reads: "unet." and PEFT's names."""
    _write(folder / LORA_FILE, {f"unet.{name}": value for name, value in weights.items()})


def write_peft_lora(folder: Path, weights: Weights) -> None:
    """Write the two files that `PeftModel.from_pretrained(unet, folder)` reads.

    The config has only the entries of PEFT 0.8.2, which refuses later ones.
    """
    config = {
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": rank(weights),
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank(weights),
        "target_modules": modules(weights),
    }
    write_file(folder / PEFT_CONFIG, json.dumps(config, indent=2) + "\n")
    _write(folder / PEFT_FILE, {f"base_model.model.{n}": value for n, value in weights.items()})


def write_kohya_lora(
    path: Path,
    weights: Weights,
    header: Mapping[str, str],
    ldm_blocks: Mapping[str, Any] = NO_BLOCKS,
) -> None:
    """Write the file that ComfyUI, A1111, Forge, InvokeAI and Draw Things read.

    Module `mid_block.attentions.0.proj_in` is called `lora_unet_mid_block_attentions_0_proj_in`;
    with the blocks of a UNet of XL, whose names are LDM's, `lora_unet_middle_block_1_proj_in`.
    """
    tensors = {}
    for module in modules(weights):
        own = unet_name(module, SimpleNamespace(**ldm_blocks)) if ldm_blocks else module
        name = f"lora_unet_{own.replace('.', '_')}"
        tensors[f"{name}.lora_down.weight"] = weights[module + A]
        tensors[f"{name}.lora_up.weight"] = weights[module + B]
        tensors[f"{name}.alpha"] = torch.tensor(float(rank(weights)))
    _write(path, tensors, header)


def _write(path: Path, tensors: Weights, header: Mapping[str, str] | None = None) -> None:
    write_file(path, in_one_order(save(dict(tensors), {"format": "pt"} | dict(header or {}))))


def in_one_order(content: bytes) -> bytes:
    """Return a safetensors file with its metadata sorted, so that its checksum repeats.

    The library writes metadata in an order that changes from call to call.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    entries = json.loads(content[8:end])
    entries["__metadata__"] = dict(sorted(entries["__metadata__"].items()))
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]

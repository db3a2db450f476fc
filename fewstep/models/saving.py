"""A pipeline as a diffusers folder that transformers from 4.44 to today's read alike."""

import json
import os
import re
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn
from transformers import CLIPTokenizer, CLIPTokenizerFast

from fewstep.files import write_file
from fewstep.models.base import TEXT_MODEL
from fewstep.models.loading import quietly
from fewstep.models.tokenizer import write_json


def save_pipeline(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Write a pipeline that every version loads in fp32 by default, and that names no local path.

    fp32 is diffusers' default; transformers would load its part in the stored dtype instead.
    """
    with quietly():
        for component in pipeline.components.values():
            if isinstance(component, nn.Module):  # old versions save no other layout
                component.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        try:
            pipeline.save_pretrained(folder, safe_serialization=True)
        except SafetensorError as error:  # of a full disk, which is no OSError of theirs
            number = int((re.search(r"os error (\d+)", str(error)) or [0, 0])[1])
            raise OSError(number, os.strerror(number) if number else str(error)) from error
        for name, component in pipeline.components.items():
            if name.startswith("tokenizer"):
                save_tokenizer(component, folder / name)
    _clean_configs(folder)
    for path in folder.glob("text_encoder*/model.safetensors"):
        _prefix_names(path)


def save_configs(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Write what `save_pipeline` does but no weights."""
    pipeline.save_config(folder)
    for name, component in pipeline.components.items():
        if name.startswith("tokenizer"):
            save_tokenizer(component, folder / name)
        elif name.startswith("text_encoder"):
            component.config.save_pretrained(folder / name)
        elif component is not None:  # the safety checker is
            component.save_config(folder / name)
    _clean_configs(folder)


def _clean_configs(folder: Path) -> None:
    """Take local paths out of the configs, and have the text encoders loaded in fp32."""
    for path in (folder / "model_index.json", *folder.glob("*/config.json")):
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings.pop("_name_or_path", None)
        if path.parent.name.startswith("text_encoder"):
            settings["dtype"] = "float32"
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write vocab.json and merges.txt, which old versions read, and tokenizer.json for new ones."""
    tokenizer.save_pretrained(folder)
    fast = CLIPTokenizerFast.from_pretrained(folder).backend_tokenizer
    content = json.loads(fast.to_str()) | {"padding": None, "truncation": None}  # of its last call
    model = content["model"]  # before 0.20, tokenizers reads a merge as one string, later as both
    model["merges"] = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    write_json(folder / "tokenizer.json", content)
    fast.model.save(str(folder))


def _prefix_names(path: Path) -> None:
    weights = load_file(path)
    named = {
        name
        if name.startswith("text_projection.")
        else TEXT_MODEL + name.removeprefix(TEXT_MODEL): value
        for name, value in weights.items()
    }
    write_file(path, save(named, {"format": "pt"}))

"""Safetensors files, also those whose metadata are not the text that the format asks for."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

SAFE = ".safetensors"
PICKLED = (".ckpt", ".pt", ".pth", ".bin")
"""How the names of files of weights end."""

Metadata = Mapping[str, str]

LENGTH = 8
"""Bytes of the number that a file begins with: its header's length."""


def read_safetensors(
    path: Path, device: torch.device | str = "cpu"
) -> tuple[dict[str, Tensor], Metadata]:
    """Return the tensors, on the meta device their names and shapes alone, and the metadata.

    The library refuses a file of which an entry of the metadata is a number or a list, as some
    trainers write; such entries are read as their JSON.

    Raises:
        OSError, SafetensorError: if the file cannot be read, or is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name).to(device) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except SafetensorError:
        content, metadata = _with_text_metadata(path)
        if not metadata:
            raise
    return {name: tensor.to(device) for name, tensor in load(content).items()}, metadata


def _with_text_metadata(path: Path) -> tuple[bytes, Metadata]:
    """Return a file's content with metadata of text, and these; none if they are not at fault."""
    content = path.read_bytes()
    end = LENGTH + int.from_bytes(content[:LENGTH], "little")
    try:
        entries = json.loads(content[LENGTH:end])
        found = entries["__metadata__"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        return content, {}
    metadata = {name: v if isinstance(v, str) else json.dumps(v) for name, v in found}
    if metadata == dict(found):
        return content, {}
    header = json.dumps(entries | {"__metadata__": metadata}).encode()
    return len(header).to_bytes(LENGTH, "little") + header + content[end:], metadata

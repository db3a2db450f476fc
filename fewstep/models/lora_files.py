"""LoRA files as other programs write them: the names of kohya, diffusers and PEFT in one form."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from fewstep.models.base import ModelError
from fewstep.models.components import UNSAFE
from fewstep.models.safe_files import PICKLED, SAFE, Metadata, read_safetensors

PART = re.compile(
    r"(?P<layer>.+?)(?:\.lora_(?P<peft>[AB])(?:\.\w+)?\.weight"  # PEFT and diffusers today
    r"|\.lora_(?P<kohya>down|up|mid)\.weight"
    r"|(?:[._]lora|\.lora_linear_layer)\.(?P<diffusers>down|up)\.weight"  # diffusers before PEFT
    r"|\.(?P<alpha>alpha))"
)
"""A LoRA's layer and which part of it a weight is."""

PEFT_PARTS = {"A": "down", "B": "up"}

OTHER_KINDS = {
    "a LoHa": re.compile(r"\.hada_"),
    "a LoKr": re.compile(r"\.lokr_"),
    "a DoRA": re.compile(r"\.dora_scale$|\.lora_magnitude_vector"),
    "an OFT": re.compile(r"\.b?oft_"),
    "an IA3": re.compile(r"\.on_input$|\.ia3_"),
    "a file of whole differences": re.compile(r"\.diff(_b)?$"),
    "an embedding (textual inversion)": re.compile(r"emb_params$|^string_to_param|^<.*>$"),
}
"""What else is passed on as a LoRA, by the names of its weights."""

EMBEDDING = "bundle_emb."
"""How the names of an embedding begin that a program bundled with a LoRA, to be used by its name in
prompts; the LoRA is whole without it."""

PREFIXES = (
    (r"base_model\.model\.", ""),
    (r"lora_unet_", "unet."),
    (r"lora_te1?_", "text_encoder."),
    (r"lora_te2_", "text_encoder_2."),
)

PEFT_CONFIG = "adapter_config.json"
"""What PEFT writes beside its adapter_model.safetensors."""


@dataclass
class Layer:
    """One layer's factors [rank, in, ...] and [out, rank, ...], and alpha, by default the rank.

    `mid` [rank, rank, height, width] is of LyCORIS' convolutions, whose `down` is then 1 x 1.
    """

    down: Tensor | None = None
    up: Tensor | None = None
    mid: Tensor | None = None
    alpha: float | None = None

    def change(self, shape: torch.Size) -> Tensor | None:
        """Return what the layer adds to a weight of this shape, or None if it does not fit it."""
        if self.down is None or self.up is None:
            return None
        up, down = self.up.float().flatten(1), self.down.float()
        if self.mid is not None:
            if self.mid.shape[1] != len(down):
                return None
            down = torch.einsum("rs...,si->ri...", self.mid.float(), down.flatten(1))
        rank, size = len(down), len(up) * down[0].numel()
        if up.shape[1] != rank or len(up) != shape[0] or size != shape.numel():
            return None
        scale = 1.0 if self.alpha is None else self.alpha / rank
        return scale * (up @ down.flatten(1)).view(shape)


@dataclass(frozen=True)
class LoraFile:
    """The layers of a file by the names of their modules, `unet.` or `text_encoder.` before them.

    kohya's names have underscores in place of the dots. `embeddings` were left out.
    """

    layers: Mapping[str, Layer]
    embeddings: frozenset[str]


def read_lora(path: Path) -> LoraFile:
    """Read a LoRA in the names of kohya, diffusers or PEFT.

    Raises:
        ModelError: if it is missing, pickled or damaged, or no LoRA but one of the other kinds.
    """
    if path.is_dir():
        files = sorted(path.glob(f"*{SAFE}"))
        raise ModelError(
            f"the LoRA {path} is a folder; give the path of its file"
            f"{f', such as {files[0]}' if files else ''}"
        )
    if path.suffix != SAFE:
        pickled = f"; any other {UNSAFE}" if path.suffix in PICKLED else ""
        raise ModelError(f"the LoRA {path} is not a {SAFE} file{pickled}")
    if not path.is_file():
        raise ModelError(f"there is no LoRA {path}; give the path of its file")
    try:
        weights, metadata = read_safetensors(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read the LoRA {path} ({error}); get it again") from error
    embeddings = {name.split(".")[1] for name in weights if name.startswith(EMBEDDING)}
    weights = {name: w for name, w in weights.items() if not name.startswith(EMBEDDING)}
    _check_kind(path, weights)
    layers: dict[str, Layer] = {}
    for name, weight in weights.items():
        layer, part = _parsed(path, name)
        is_whole = weight.numel() == 1 if part == "alpha" else weight.dim() > 1 and weight.numel()
        if not is_whole:
            raise ModelError(
                f"the LoRA {path} has {name} in the shape {list(weight.shape)}, which no LoRA has; "
                "it was damaged, get it again"
            )
        value = float(weight) if part == "alpha" else weight
        setattr(layers.setdefault(layer, Layer()), part, value)
    for name, config in _configs(path, metadata):
        _scale(layers, name, config)
    return LoraFile(layers, frozenset(embeddings))


def _check_kind(path: Path, weights: Mapping[str, Tensor]) -> None:
    for kind, pattern in OTHER_KINDS.items():
        if any(pattern.search(name) for name in weights):
            raise ModelError(
                f"the LoRA {path} is {kind}, which is not read here; merge it into its base model "
                "by the program that made it, or take a plain LoRA"
            )
    if not any(PART.fullmatch(name) for name in weights):
        example = f", but weights such as {min(weights)}" if weights else ""
        raise ModelError(
            f"the LoRA {path} has no layer of a LoRA{example}; give the file of a LoRA in the "
            "format of kohya, diffusers or PEFT"
        )


def _parsed(path: Path, name: str) -> tuple[str, str]:
    """Return a weight's layer, its prefix as diffusers has it, and the field of a Layer."""
    match = PART.fullmatch(name)
    if match is None:
        raise ModelError(
            f"the LoRA {path} has the weight {name}, which is no part of a LoRA; take a plain one"
        )
    layer = match["layer"].replace(".processor.", ".")
    for prefix, ours in PREFIXES:
        layer = re.sub(f"^{prefix}", ours, layer)
    peft = PEFT_PARTS.get(match["peft"] or "")
    part = peft or match["kohya"] or match["diffusers"] or match["alpha"]
    return layer, part


def _configs(path: Path, metadata: Metadata) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield PEFT's settings and the component they are of: from beside the file, or inside it."""
    beside = path.with_name(PEFT_CONFIG)
    try:
        if path.stem == "adapter_model" and beside.is_file():
            yield "", json.loads(beside.read_text(encoding="utf-8"))
        inside = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read the settings of the LoRA {path} ({error})") from error
    for component in ("unet.", "text_encoder.", "text_encoder_2."):
        if config := {n.removeprefix(component): v for n, v in inside.items()
                      if n.startswith(component)}:  # fmt: skip
            yield component, config


def _scale(layers: Mapping[str, Layer], component: str, config: Mapping[str, Any]) -> None:
    """Give the layers of a component the alpha that PEFT's settings have for them."""
    for name, layer in layers.items():
        if not name.startswith(component) or layer.alpha is not None or layer.down is None:
            continue
        alpha = config.get("lora_alpha", len(layer.down))
        for pattern, value in (config.get("alpha_pattern") or {}).items():
            if re.search(rf"(^|\.){pattern}$", name):
                alpha = value
        layer.alpha = alpha * (len(layer.down) ** 0.5 if config.get("use_rslora") else 1)

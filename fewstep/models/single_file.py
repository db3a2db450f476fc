"""Checkpoint files: read, and recognised by the names and shapes of their weights."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from fewstep.models.base import ModelError
from fewstep.models.components import NOT_ONLY_WEIGHTS, UNSAFE
from fewstep.models.ldm import unscaled
from fewstep.models.safe_files import PICKLED, SAFE, Metadata, read_safetensors

STUDENT_KEY = "fewstep.method"
"""The entry of a file's metadata which says that it holds a student."""

FIRST_CONV = "model.diffusion_model.input_blocks.0.0.weight"
PROMPT_KEY = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"

SIZE_KEY = "model.diffusion_model.label_emb.0.0.weight"
"""Of SDXL: what its UNet makes of the pooled prompt and the image's size."""

XL_SIZES = {2816: "sdxl", 2560: "the refiner of SDXL, which only repaints an image: take the base"}

OLD_TEXT_NAME = re.compile(
    r"^(cond_stage_model\.transformer\.)(?=(embeddings|encoder|final_layer_norm)\.)"
)
"""How the text encoder's names begin in files of NovelAI's time, which lack a `text_model.`."""


def read_checkpoint(
    path: Path, allow_pickle: bool, device: torch.device | str
) -> tuple[dict[str, Tensor], Metadata]:
    """Read the weights, on the meta device their names and shapes alone, and the metadata.

    Raises:
        ModelError: if it cannot be read, is pickled without `allow_pickle`, or holds a student.
    """
    if path.suffix not in (SAFE, *PICKLED):
        raise ModelError(
            f"{path} is a file whose name ends in {path.suffix!r}: rename it to end in {SAFE} if "
            "that is what it is"
        )
    if path.suffix in PICKLED and not allow_pickle:
        raise ModelError(
            f"{path} {UNSAFE}: convert it to .safetensors, or set model.allow_pickle = true if you "
            "trust its origin"
        )
    weights, metadata = _contents(path, "meta" if torch.device(device).type == "meta" else "cpu")
    weights = {OLD_TEXT_NAME.sub(r"\1text_model.", name): value for name, value in weights.items()}
    weights = unscaled(weights)
    if STUDENT_KEY in metadata:
        raise ModelError(
            f"{path} holds a {metadata[STUDENT_KEY]} student, as its header says, and no teacher: "
            "name the folder that fewstep export wrote it into, or its base model"
        )
    return weights, metadata


def _contents(path: Path, device: str) -> tuple[dict[str, Tensor], Metadata]:
    try:
        if path.suffix in PICKLED:
            found: Any = torch.load(path, map_location=device, weights_only=True)
            found = found.get("state_dict", found)
            return {name: weight for name, weight in found.items()
                    if isinstance(weight, Tensor)}, {}  # fmt: skip
        return read_safetensors(path, device)
    except pickle.UnpicklingError as error:
        raise ModelError(f"cannot read the checkpoint {path}: {NOT_ONLY_WEIGHTS}") from error
    except (OSError, SafetensorError, RuntimeError, AttributeError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"cannot read the checkpoint {path}: it is damaged or was not copied to its end; get "
            f"it again ({reason})"
        ) from error


def recognise(path: Path, weights: Mapping[str, Tensor], metadata: Metadata) -> str:
    """Return the name in ARCHITECTURES that a checkpoint's weights belong to.

    Raises:
        ModelError: if they belong to none, or do not say to which.
    """
    if SIZE_KEY in weights and FIRST_CONV in weights:
        return _recognise_xl(path, weights, metadata)
    if FIRST_CONV not in weights or PROMPT_KEY not in weights:
        raise ModelError(
            f"{path} is no checkpoint of Stable Diffusion 1, 2 or XL: it has no {PROMPT_KEY}"
        )
    _check_channels(path, weights)
    width = weights[PROMPT_KEY].shape[1]
    if width == 768:
        return "sd15"
    keys = ("modelspec.architecture", "modelspec.prediction_type")
    description = " ".join(metadata.get(key, "") for key in keys)
    if "768-v" in description or description.endswith(" v"):
        return "sd21"
    if description.endswith(" epsilon"):
        return "sd21-base"
    raise ModelError(
        f"{path} is of Stable Diffusion 2, whose files do not say what the network predicts: set "
        "model.config = 'sd21' (v-prediction, 768 pixels) or 'sd21-base' (epsilon, 512 pixels)"
    )


def _recognise_xl(path: Path, weights: Mapping[str, Tensor], metadata: Metadata) -> str:
    """Return "sdxl" or, where a file says that it predicts v, "sdxl-v"."""
    _check_channels(path, weights)
    found = XL_SIZES.get(weights[SIZE_KEY].shape[1], "of no architecture that is known")
    if found != "sdxl":
        raise ModelError(f"{path} is {found}")
    predicts_v = metadata.get("modelspec.prediction_type") == "v" or "v_pred" in weights
    return "sdxl-v" if predicts_v else "sdxl"


def _check_channels(path: Path, weights: Mapping[str, Tensor]) -> None:
    channels = weights[FIRST_CONV].shape[1]
    if channels != 4:
        raise ModelError(
            f"{path} takes {channels} channels, as inpainting and depth models do; only "
            "text-to-image models (4 channels) can be distilled"
        )

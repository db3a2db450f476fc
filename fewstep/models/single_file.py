"""What a single-file checkpoint is, told from the names and the shapes of its weights."""

# diffusers hands out its configs and networks without types
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError, safe_open

from fewstep.models.architectures import ARCHITECTURES, architecture_folder
from fewstep.models.base import ModelError
from fewstep.models.ldm import renamed, unet_names, vae_names
from fewstep.models.stable_diffusion_parts import MORE_THAN_WEIGHTS

SAFE = ".safetensors"
PICKLED = (".ckpt", ".pt", ".pth", ".bin")
UNET = "model.diffusion_model."
BEGINNINGS = {"unet": UNET, "vae": "first_stage_model.", "text_encoder": "cond_stage_model."}
"""What the names of each part's weights begin with."""

STUDENT = "fewstep.method"
"""The entry of a file's metadata that says that a student is inside."""

NAMED = {"unet": (UNet2DConditionModel, unet_names), "vae": (AutoencoderKL, vae_names)}
"""The networks whose weights a file names one by one as diffusers does, and how."""

FIRST_CONV = f"{UNET}input_blocks.0.0.weight"
PROMPT_KEY = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"

Shapes = Mapping[str, tuple[int, ...]]


@contextmanager
def configs_of(path: Path, config: str | None, allow_pickle: bool) -> Iterator[Path]:
    """Yield a folder with the configs of the checkpoint file at `path`.

    `config` is a name in ARCHITECTURES or a diffusers folder; without it the weights decide.

    Raises:
        ModelError: if the file cannot be read, is pickled without `allow_pickle`, holds a student,
            or is of an architecture that is not known.
    """
    if path.suffix not in (SAFE, *PICKLED):
        raise ModelError(
            f"{path} is a file whose name ends in {path.suffix!r}: rename it to end in {SAFE} if "
            "that is what it is"
        )
    if path.suffix in PICKLED and not allow_pickle:
        raise ModelError(
            f"{path} is pickled, and unpickling may run code that somebody put there: convert it "
            "to .safetensors, or set model.allow_pickle = true if you trust its origin"
        )
    shapes, metadata = _contents(path)
    if STUDENT in metadata:
        raise ModelError(
            f"{path} holds a {metadata[STUDENT]} student, as its header says, and no teacher: name "
            "the folder that fewstep export wrote it into, or its base model"
        )
    for part, beginning in BEGINNINGS.items():
        if not any(name.startswith(beginning) for name in shapes):
            raise ModelError(
                f"cannot load the {part} of {path}: its weights ({beginning}…) are missing; it has "
                "to be a whole checkpoint of Stable Diffusion 1 or 2, as SDXL, a LoRA or a UNet "
                "alone are not"
            )
    if config is not None and Path(config).is_dir():
        yield Path(config)
        return
    with architecture_folder(config or recognise(path, shapes, metadata)) as folder:
        yield folder


def check_networks(path: Path, configs: Path) -> None:
    """Refuse a file that lacks weights of the UNet or autoencoder that the configs describe.

    Raises:
        ModelError: naming the file, the part and the first of them.
    """
    shapes, _ = _contents(path)
    for part, (kind, ldm_names) in NAMED.items():
        with torch.device("meta"):
            network = kind.from_config(kind.load_config(configs, subfolder=part))
        names = ldm_names(network.config)
        whole = [f"{BEGINNINGS[part]}{renamed(name, names)}" for name in network.state_dict()]
        if missing := [name for name in whole if name not in shapes]:
            raise ModelError(
                f"cannot load the {part} of {path}: {len(missing)} of its weights are missing, "
                f"such as {missing[0]}; get the checkpoint again"
            )


def recognise(path: Path, shapes: Shapes, metadata: Mapping[str, str]) -> str:
    """Return the name in ARCHITECTURES that weights of these shapes belong to."""
    if FIRST_CONV not in shapes or PROMPT_KEY not in shapes:
        raise ModelError(
            f"{path} is no checkpoint of Stable Diffusion 1 or 2: it has no {PROMPT_KEY}"
        )
    channels, width = shapes[FIRST_CONV][1], shapes[PROMPT_KEY][1]
    if channels != 4:
        raise ModelError(
            f"{path} takes {channels} channels, as inpainting and depth models do; only "
            "text-to-image models (4 channels) can be distilled"
        )
    if width == 768:
        return "sd15"
    told = " ".join(
        metadata.get(f"modelspec.{key}", "") for key in ("architecture", "prediction_type")
    )
    if "768-v" in told or told.endswith(" v"):
        return "sd21"
    if told.endswith(" epsilon"):
        return "sd21-base"
    raise ModelError(
        f"{path} is of Stable Diffusion 2, whose files do not say what the network predicts: set "
        "model.config = 'sd21' (v-prediction, 768 pixels) or 'sd21-base' (epsilon, 512 pixels)"
    )


def check_config(config: str | None) -> None:
    """Refuse a `model.config` that is neither a known name nor a folder."""
    if config is not None and config not in ARCHITECTURES and not Path(config).is_dir():
        raise ModelError(
            f"model.config is {config!r}; it has to be {', '.join(ARCHITECTURES)} or a diffusers "
            "folder"
        )


def _contents(path: Path) -> tuple[Shapes, Mapping[str, str]]:
    """Return the shape of every tensor, and the metadata."""
    try:
        if path.suffix in PICKLED:
            weights: Any = torch.load(path, map_location="meta", weights_only=True)
            weights = weights.get("state_dict", weights)
            return {name: tuple(weight.shape) for name, weight in weights.items()
                    if isinstance(weight, torch.Tensor)}, {}  # fmt: skip
        with safe_open(path, "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            return shapes, file.metadata() or {}
    except pickle.UnpicklingError as error:
        raise ModelError(f"cannot read the checkpoint {path}: {MORE_THAN_WEIGHTS}") from error
    except (OSError, SafetensorError, RuntimeError, AttributeError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"cannot read the checkpoint {path}: it is damaged or was not copied to its end; get "
            f"it again ({reason})"
        ) from error

"""The published architectures of Stable Diffusion, as facts: a checkpoint file holds weights only.

Each is given as its difference to the defaults of diffusers' and transformers' own classes.
"""

import inspect
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

from fewstep.models.tokenizer import END, write_clip_tokenizer, write_json

CLIP_L = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
}
"""The text encoder of CLIP ViT-L/14 (Radford et al. 2021)."""

OPEN_CLIP_H = CLIP_L | {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,  # of 24: SD 2 takes the last but one
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "projection_dim": 512,
}
"""The text encoder of OpenCLIP ViT-H/14."""

CLIP_TOKENS = {
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 1,
}

VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}

SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}
"""The noise levels of Stable Diffusion 1 and 2 (Rombach et al. 2022, v1-inference.yaml)."""

SD1_UNET = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SD2_UNET = SD1_UNET | {
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}


@dataclass(frozen=True)
class Architecture:
    """The configs of one release, and the Hub ids under which it is known."""

    unet: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    pad_token: str
    hub_ids: tuple[str, ...]

    def write(self, folder: Path) -> None:
        """Write a diffusers folder without weights."""
        index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline"}
        index |= {name: [None, None] for name in ("safety_checker", "feature_extractor")}
        index |= {
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "scheduler": ["diffusers", "DDIMScheduler"],
        }
        files = {
            "model_index.json": index,
            "unet/config.json": defaults(UNet2DConditionModel) | dict(self.unet),
            "vae/config.json": defaults(AutoencoderKL) | VAE,
            "text_encoder/config.json": {**self.text_encoder, **CLIP_TOKENS},
            "scheduler/scheduler_config.json": self.scheduler,
        }
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_json(folder / name, dict(content))
        write_clip_tokenizer(folder / "tokenizer", self.pad_token)


ARCHITECTURES = {
    "sd15": Architecture(
        unet=SD1_UNET,
        text_encoder=CLIP_L,
        scheduler=SCHEDULER,
        pad_token=END,
        hub_ids=(
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "runwayml/stable-diffusion-v1-5",
            "CompVis/stable-diffusion-v1-4",
        ),
    ),
    "sd21-base": Architecture(
        unet=SD2_UNET,
        text_encoder=OPEN_CLIP_H,
        scheduler=SCHEDULER,
        pad_token="!",
        hub_ids=("stabilityai/stable-diffusion-2-1-base", "stabilityai/stable-diffusion-2-base"),
    ),
    "sd21": Architecture(
        unet=SD2_UNET | {"sample_size": 96},
        text_encoder=OPEN_CLIP_H,
        scheduler=SCHEDULER | {"prediction_type": "v_prediction"},
        pad_token="!",
        hub_ids=("stabilityai/stable-diffusion-2-1", "stabilityai/stable-diffusion-2"),
    ),
}
"""By the name that `model.config` may have; the files of SD 2.0 and 2.1 are alike."""


def defaults(network: type[nn.Module]) -> dict[str, Any]:
    """Return a network's settings: reading a checkpoint file asks for all of them."""
    parameters = inspect.signature(network).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


@contextmanager
def architecture_folder(name: str) -> Iterator[Path]:
    """Yield a diffusers folder with the configs and the tokenizer of a name in ARCHITECTURES."""
    with tempfile.TemporaryDirectory(prefix="fewstep-") as folder:
        ARCHITECTURES[name].write(Path(folder))
        yield Path(folder)


def known_architecture(hub_id: str) -> str | None:
    """Return the name of the architecture that a Hub id is known to have.

    >>> known_architecture("stabilityai/stable-diffusion-2-1-base")
    'sd21-base'
    """
    return next((name for name, a in ARCHITECTURES.items() if hub_id in a.hub_ids), None)

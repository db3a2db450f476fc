"""The published architectures of Stable Diffusion, as facts: a checkpoint file holds weights only.

Each is given as its difference to the defaults of diffusers' and transformers' own classes.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewstep.files import writing
from fewstep.models.tokenizer import END, write_clip_tokenizer, write_json

CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
          "projection_dim": 768}  # fmt: skip
"""The text encoder of CLIP ViT-L/14 (Radford et al. 2021)."""

OPEN_CLIP_H = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
               "num_hidden_layers": 23, "hidden_act": "gelu"}  # fmt: skip
"""The text encoder of OpenCLIP ViT-H/14, of whose 24 layers SD 2 takes the last but one."""

CLIP_TOKENS = {"vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 1}

VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
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

SD1_UNET = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
SD2_UNET = {"sample_size": 64, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True}  # fmt: skip


XL_UNET = {
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
"""The UNet of SDXL (Podell et al. 2023), which reads two text encoders and the image's size."""

OPEN_CLIP_BIG_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20,
                   "num_hidden_layers": 32, "hidden_act": "gelu",
                   "projection_dim": 1280}  # fmt: skip
"""The second text encoder of SDXL, OpenCLIP ViT-bigG/14; the first is SD 1's."""

XL_VAE = VAE | {"sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True}
"""SDXL's: in fp16 its activations overflow."""

XL_V = SCHEDULER | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True,
                    "timestep_spacing": "trailing"}  # fmt: skip
"""What fine-tunes of SDXL that predict v are trained with."""


@dataclass(frozen=True)
class Architecture:
    """The configs of one release, and the Hub ids under which it is known.

    `pad_token` is that of the last text encoder's tokenizer.
    """

    hub_ids: tuple[str, ...]
    unet: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    pad_token: str
    vae: Mapping[str, Any] = field(default_factory=lambda: VAE)
    text_encoder_2: Mapping[str, Any] | None = None


ARCHITECTURES = {
    "sd15": Architecture(
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5",
         "CompVis/stable-diffusion-v1-4"),
        SD1_UNET, CLIP_L, SCHEDULER, END,
    ),
    "sd21-base": Architecture(
        ("stabilityai/stable-diffusion-2-1-base", "stabilityai/stable-diffusion-2-base"),
        SD2_UNET, OPEN_CLIP_H, SCHEDULER, "!",
    ),
    "sd21": Architecture(
        ("stabilityai/stable-diffusion-2-1", "stabilityai/stable-diffusion-2"),
        SD2_UNET | {"sample_size": 96}, OPEN_CLIP_H,
        SCHEDULER | {"prediction_type": "v_prediction"}, "!",
    ),
    "sdxl": Architecture(
        ("stabilityai/stable-diffusion-xl-base-1.0", "stabilityai/stable-diffusion-xl-base-0.9"),
        XL_UNET, CLIP_L, SCHEDULER, "!", XL_VAE, OPEN_CLIP_BIG_G,
    ),
    "sdxl-v": Architecture((), XL_UNET, CLIP_L, XL_V, "!", XL_VAE, OPEN_CLIP_BIG_G),
}  # fmt: skip
"""By the name that `model.config` may have; the files of SD 2.0 and 2.1 are alike."""


@contextmanager
def architecture_folder(name: str) -> Iterator[Path]:
    """Yield a diffusers folder with the configs and the tokenizer of a name in ARCHITECTURES."""
    architecture = ARCHITECTURES[name]
    second = architecture.text_encoder_2
    kind = "StableDiffusionXLPipeline" if second else "StableDiffusionPipeline"
    with tempfile.TemporaryDirectory(prefix="fewstep-") as temporary:
        folder = Path(temporary)
        with writing(folder):
            for path, content in {
                "model_index.json": {"_class_name": kind},
                "unet/config.json": architecture.unet,
                "vae/config.json": architecture.vae,
                "text_encoder/config.json": CLIP_TOKENS | dict(architecture.text_encoder),
                **({"text_encoder_2/config.json": CLIP_TOKENS | dict(second)} if second else {}),
                "scheduler/scheduler_config.json": architecture.scheduler,
            }.items():
                (folder / path).parent.mkdir(exist_ok=True)
                write_json(folder / path, dict(content))
            write_clip_tokenizer(folder / "tokenizer", END if second else architecture.pad_token)
            if second:
                write_clip_tokenizer(folder / "tokenizer_2", architecture.pad_token)
        yield folder


def known_architecture(hub_id: str) -> str | None:
    """Return the name of the architecture that a Hub id is known to have.

    >>> known_architecture("stabilityai/stable-diffusion-2-1-base")
    'sd21-base'
    """
    return next((name for name, a in ARCHITECTURES.items() if hub_id in a.hub_ids), None)

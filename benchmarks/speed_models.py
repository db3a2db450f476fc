"""Models for timing: the real classes with random weights, which do not change the cost."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel

from fewstep.models.architectures import SCHEDULER
from fewstep.models.loading import bundled_folder
from recipes.bundled_teacher.tokenizer import save_tokenizer

TOKENS = 77


@dataclass(frozen=True)
class Size:
    """The configurations of a model's networks, the side of its images in pixels and, of how many
    a side of a latent stands for."""

    resolution: int
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    text: Mapping[str, Any]
    factor: int = 8


SIZES = {
    "bundled": Size(64, {}, {}, {"hidden_size": 96}, factor=4),
    "smallest": Size(
        64,
        {
            "sample_size": 8,
            "block_out_channels": (8,),
            "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlock2D",),
            "up_block_types": ("CrossAttnUpBlock2D",),
            "cross_attention_dim": 8,
            "attention_head_dim": 2,
            "norm_num_groups": 4,
        },
        {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4},
        {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
         "num_attention_heads": 1},
    ),
    "tiny": Size(
        64,
        {
            "sample_size": 8,
            "block_out_channels": (32, 64),
            "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "cross_attention_dim": 32,
            "attention_head_dim": 4,
            "norm_num_groups": 8,
        },
        {"block_out_channels": (16, 16, 32, 32), "norm_num_groups": 8},
        {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
         "num_attention_heads": 2},
    ),
    "sd15": Size(
        512,
        {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
        {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "sample_size": 512},
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
         "num_attention_heads": 12},
    ),
}  # fmt: skip
"""`bundled` is the teacher that is shipped, `smallest` for what does not depend on the network;
`sd15` is Stable Diffusion 1.5's published configuration with a smaller vocabulary."""


def save_pipeline(name: str, folder: Path) -> Path:
    """Write a pipeline of this size, in fp32, with random weights but for the bundled one."""
    if name == "bundled":
        return shutil.copytree(bundled_folder(), folder, dirs_exist_ok=True)
    size = SIZES[name]
    tokenizer = save_tokenizer(folder / "tokenizer", TOKENS)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text = CLIPTextConfig(
            max_position_embeddings=TOKENS,
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **size.text,
        )
        pipeline = StableDiffusionPipeline(
            vae=AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                latent_channels=4,
                **size.vae,
            ),
            text_encoder=CLIPTextModel(text),
            tokenizer=tokenizer,
            unet=UNet2DConditionModel(**size.unet),
            scheduler=DDIMScheduler.from_config(SCHEDULER),
            safety_checker=None,  # type: ignore[arg-type]
            feature_extractor=None,  # type: ignore[arg-type]
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder)
    return folder

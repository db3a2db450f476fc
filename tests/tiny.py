"""A whole Stable Diffusion pipeline of the real classes, small enough for tests, random weights."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    PNDMScheduler,
    SchedulerMixin,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from fewstep.config import AdapterSettings, Config, DataSettings, ModelSettings, TrainSettings
from recipes.bundled_teacher.tokenizer import save_tokenizer

SD15_SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}


SD2_SCHEDULER = {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
}
"""As SD 2.1's, with the zero terminal SNR of its fine-tunes."""


def tiny_unet(**settings: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(**(TINY_UNET | settings))


TINY_UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}


def tiny_scheduler(version: int, **settings: object) -> SchedulerMixin:
    """Return the scheduler of each release's own config: PNDM for SD 1, DDIM for SD 2."""
    if version == 1:
        return PNDMScheduler(**(SD15_SCHEDULER | settings))
    shared = {key: value for key, value in SD15_SCHEDULER.items() if key != "skip_prk_steps"}
    return DDIMScheduler(**(shared | settings))


@cache
def tiny_pipeline(version: int = 1) -> Path:
    """Return the folder of a tiny SD 1.x or 2.x, written once a process."""
    folder = Path(tempfile.mkdtemp(prefix="fewstep-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return save_tiny_pipeline(folder, version, **(SD2_SCHEDULER if version == 2 else {}))


def tiny_config(method: str = "multi-boundary-cd", version: int = 1, **train: object) -> Config:
    """Return settings that distil the tiny pipeline in seconds."""
    return Config(
        method={"name": method},
        model=ModelSettings(base=str(tiny_pipeline(version))),
        adapter=AdapterSettings(rank=2, alpha=8.0),
        data=DataSettings(num_pairs=12),
        train=TrainSettings(**{"steps": 6, "batch_size": 2, "warmup": 1, "save_every": 2,
                               "preview_every": 0, "learning_rate": 1e-2} | train),
    )  # fmt: skip


def save_tiny_pipeline(folder: Path, version: int = 1, **scheduler: object) -> Path:
    """Write a pipeline folder whose weights are a function of nothing but this code."""
    is_2 = version == 2
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = save_tokenizer(folder / "tokenizer", 24)
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=24,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                hidden_act="gelu" if is_2 else "quick_gelu",
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=4,
            latent_channels=4,
        )
        pipeline = StableDiffusionPipeline(
            vae=vae,
            text_encoder=text,
            tokenizer=tokenizer,
            unet=tiny_unet(
                **({"attention_head_dim": (2, 4), "use_linear_projection": True} if is_2 else {})
            ),
            scheduler=tiny_scheduler(version, **scheduler),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder)
    return folder


TINY_XL_UNET = TINY_UNET | {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2),
    "attention_head_dim": (2, 4),
    "use_linear_projection": True,
    "cross_attention_dim": 16 + 24,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 20 + 6 * 8,
}


def tiny_encoder(tokenizer: CLIPTokenizer, **settings: object) -> CLIPTextConfig:
    """Return the config of a text encoder of two layers."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=24,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **settings,
    )


@cache
def tiny_xl_pipeline(**scheduler: object) -> Path:
    """Return the folder of a tiny SDXL, written once a process for each scheduler."""
    folder = Path(tempfile.mkdtemp(prefix="fewstep-tiny-xl-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = save_tokenizer(folder / "tokenizer", 24)
        second = {"hidden_size": 24, "intermediate_size": 48, "projection_dim": 20}
        pipeline = StableDiffusionXLPipeline(
            vae=AutoencoderKL(
                block_out_channels=(8, 8, 8, 8),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                norm_num_groups=4,
                latent_channels=4,
                scaling_factor=0.13025,
            ),
            text_encoder=CLIPTextModel(
                tiny_encoder(tokenizer, hidden_size=16, intermediate_size=32)
            ),
            text_encoder_2=CLIPTextModelWithProjection(
                tiny_encoder(tokenizer, hidden_act="gelu", **second)
            ),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=UNet2DConditionModel(**TINY_XL_UNET),
            scheduler=tiny_scheduler(2, **scheduler),
            add_watermarker=False,
        )
    pipeline.save_pretrained(folder)
    return folder


def into_hub_cache(name: str, folder: Path, home: Path, commit: str) -> Path:
    """Put a model into the Hub's cache below HF_HOME, as if downloaded; return where its files lie.

    `name` is its Hub id.
    """
    repo = home / "hub" / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    return repo / "snapshots" / commit

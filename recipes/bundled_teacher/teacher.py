"""Train the bundled teacher stage by stage, and export it."""

import json
from dataclasses import asdict, fields
from operator import ge
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline
from transformers import CLIPTextModel, CLIPTokenizer

from fewstep.config import need
from fewstep.errors import SettingError
from fewstep.files import check_writable, write_file, write_folder
from fewstep.models.loading import bundled_folder
from fewstep.models.saving import save_pipeline
from recipes.bundled_teacher.autoencoder_training import latent_scale, train_autoencoder
from recipes.bundled_teacher.config import PlanSettings, TeacherConfig, load_teacher_config
from recipes.bundled_teacher.denoiser_training import SCHEDULER, build_unet, train_denoiser
from recipes.bundled_teacher.features_training import train_features
from recipes.bundled_teacher.optimising import load_average
from recipes.bundled_teacher.pool import encode_pool
from recipes.bundled_teacher.text_training import train_text_encoder
from recipes.bundled_teacher.tokenizer import save_tokenizer

__all__ = ["export", "load_teacher_config", "train_teacher"]

WITHOUT_EFFECT = {"threads", "save_every", "log_every"}
"""Settings of a stage that do not affect its result."""
SHAPE = {
    "channels": "block_out_channels",
    "num_layers": "layers_per_block",
    "heads": "attention_head_dim",
    "groups": "norm_num_groups",
}
"""Settings of the denoiser's shape, and their names in its UNet's config."""
BYTES_PER_SCENE = 5_000
"""The size of an encoded scene in the pool, rounded up."""


def train_teacher(config: TeacherConfig, run: Path) -> Path:
    """Train the teacher, or continue, and return the exported folder.

    Stages that are done already are skipped: tokenizer, autoencoder, text encoder, encoded pool,
    denoiser. The feature network comes last, except with `start`: its images are the same.

    Raises:
        SettingError: if the folder holds stages made with other settings.
        OSError: if it cannot be written to.
    """
    start = start_folder(config)
    claim_run(config, run)
    tokenizer = prepare_tokenizer(config, run)
    autoencoder = prepare_autoencoder(config, run)
    text_encoder = prepare_text_encoder(config, run, tokenizer)
    pool = encode_pool(config, run)
    scale = autoencoder.config["scaling_factor"]
    train_denoiser(config, run, pool, tokenizer, text_encoder, scale, start)
    folder = export(config, run)
    if not start:
        train_features(config, run)
    return folder


def claim_run(config: TeacherConfig, run: Path) -> None:
    """Store the settings of the stages in the folder, or check that they are the same.

    Raises:
        SettingError: naming the settings that differ.
        OSError: if the folder cannot be written to.
    """
    pool = 0 if (run / "pool").exists() else config.pool.size * BYTES_PER_SCENE
    check_writable(run, pool + 200_000_000)
    path, mine = run / "settings.json", fixed_settings(config)
    if not path.exists():
        write_file(path, json.dumps(mine, indent=1) + "\n")
    theirs = json.loads(path.read_text(encoding="utf-8"))
    if differing := [key for key in mine if mine[key] != theirs.get(key)]:
        differences = "; ".join(f"{key} = {theirs.get(key)!r} there, {mine[key]!r} here"
                                for key in differing)  # fmt: skip
        raise SettingError(
            f"{run} belongs to a teacher with other settings ({differences}); "
            "choose another --run folder"
        )


def fixed_settings(config: TeacherConfig) -> dict[str, Any]:
    """Return the settings that cannot change during a run, by their dotted names.

    For the denoiser and the feature network that is their shape: how they learn may change.
    """
    plan = {field.name for field in fields(PlanSettings)}
    free = {
        "autoencoder": WITHOUT_EFFECT,
        "text": WITHOUT_EFFECT,
        "pool": {"workers"},
        "denoiser": plan | {"caption_dropout", "peers", "looking", "ema"},
        "features": plan,
    }
    tables = {
        f"{table}.{key}": list(value) if isinstance(value, tuple) else value
        for table, names in free.items()
        for key, value in asdict(getattr(config, table)).items()
        if key not in names
    }
    return {"seed": config.seed, "start": config.start} | tables


def start_folder(config: TeacherConfig) -> Path | None:
    """Return the folder of the teacher to continue from, if there is one.

    Raises:
        SettingError: if it is not a teacher, or its UNet has another shape than the settings.
    """
    if not config.start:
        return None
    folder = bundled_folder() if config.start == "shipped" else Path(config.start)
    need((folder / "model_index.json").is_file(), "start", config.start,
         "the folder of a teacher, or 'shipped'")  # fmt: skip
    shape = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
    for setting, entry in SHAPE.items():
        mine, theirs = getattr(config.denoiser, setting), shape[entry]
        mine = list(mine) if isinstance(mine, tuple) else mine
        wide = setting == "channels" and len(mine) == len(theirs)
        fits = all(map(ge, mine, theirs)) if wide else mine == theirs
        least = "at least " if wide else ""
        need(fits, f"denoiser.{setting}", mine, f"{least}{theirs}, as `start` has")
    return folder


def prepare_tokenizer(config: TeacherConfig, run: Path) -> CLIPTokenizer:
    """Return the run's tokenizer; create it if it is missing."""
    folder, start = run / "tokenizer", start_folder(config)
    if not folder.exists() and start:
        write_folder(folder, CLIPTokenizer.from_pretrained(start / "tokenizer").save_pretrained)
    elif not folder.exists():
        write_folder(folder, lambda path: save_tokenizer(path, config.text.length))
    return CLIPTokenizer.from_pretrained(folder)


def prepare_autoencoder(config: TeacherConfig, run: Path) -> AutoencoderKL:
    """Return the run's autoencoder with its scaling factor; train it if it is missing."""
    folder, start = run / "autoencoder", start_folder(config)
    if not folder.exists():
        autoencoder = (
            AutoencoderKL.from_pretrained(start / "vae")
            if start
            else train_autoencoder(config, run)
        )
        autoencoder.register_to_config(scaling_factor=latent_scale(autoencoder, config))
        write_folder(folder, autoencoder.save_pretrained)
    return AutoencoderKL.from_pretrained(folder)


def prepare_text_encoder(
    config: TeacherConfig, run: Path, tokenizer: CLIPTokenizer
) -> CLIPTextModel:
    """Return the run's frozen text encoder; train it if it is missing."""
    folder, start = run / "text_encoder", start_folder(config)
    if not folder.exists():
        text_encoder = (
            CLIPTextModel.from_pretrained(start / "text_encoder")
            if start
            else train_text_encoder(config, run, tokenizer)
        )
        write_folder(folder, text_encoder.save_pretrained)
    return CLIPTextModel.from_pretrained(folder).eval().requires_grad_(False)


def export(config: TeacherConfig, run: Path, folder: Path | None = None) -> Path:
    """Write the pipeline of the latest checkpoint, during training or after it, in fp16.

    Raises:
        FileNotFoundError: if the denoiser has no checkpoint yet.
    """
    autoencoder = AutoencoderKL.from_pretrained(run / "autoencoder")
    shape = torch.Size([autoencoder.config["latent_channels"], *[latent_size(autoencoder)] * 2])
    unet = build_unet(config, shape)
    load_average(run, "denoiser", unet)
    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=CLIPTextModel.from_pretrained(run / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(run / "tokenizer"),
        unet=unet,
        scheduler=PNDMScheduler.from_config(SCHEDULER | {"skip_prk_steps": True}),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(dtype=torch.float16)
    folder = folder or run / "teacher"
    write_folder(folder, lambda path: save_pipeline(pipeline, path))
    return folder


def latent_size(autoencoder: AutoencoderKL) -> int:
    """Return the height and width of the latents of a 64 x 64 image."""
    return 64 >> (len(autoencoder.config["block_out_channels"]) - 1)

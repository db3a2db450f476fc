"""The bundled teacher: where the shipped one lies, how it is trained, and how it is exported."""

# diffusers hands out its configs, outputs and layers without types
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline
from transformers import CLIPTextModel, CLIPTokenizer

from fewstep.bundled.autoencoder_training import latent_scale, train_autoencoder
from fewstep.bundled.denoiser_training import SCHEDULER, build_unet, train_denoiser
from fewstep.bundled.features import train_features
from fewstep.bundled.optimising import load_average
from fewstep.bundled.pool import encode_pool
from fewstep.bundled.teacher_config import TeacherConfig, load_teacher_config
from fewstep.bundled.text_training import train_text_encoder
from fewstep.bundled.vocabulary import save_tokenizer
from fewstep.config import need
from fewstep.files import write_folder
from fewstep.models.loading import bundled_folder

__all__ = ["export", "load_teacher_config", "train_teacher"]


def train_teacher(config: TeacherConfig, run: Path) -> Path:
    """Train the teacher and the feature network, or continue, and return the exported folder.

    Every stage is left out where it is done: tokenizer, autoencoder, text encoder, encoded pool,
    denoiser.
    """
    run.mkdir(parents=True, exist_ok=True)
    tokenizer = prepare_tokenizer(config, run)
    autoencoder = prepare_autoencoder(config, run)
    text_encoder = prepare_text_encoder(config, run, tokenizer)
    pool = encode_pool(config, run)
    scale = autoencoder.config["scaling_factor"]
    train_denoiser(config, run, pool, tokenizer, text_encoder, scale, start_folder(config))
    folder = export(config, run)
    train_features(config, run)
    return folder


def start_folder(config: TeacherConfig) -> Path | None:
    """Return the folder of the teacher that is trained on, if there is one."""
    if not config.start:
        return None
    folder = bundled_folder() if config.start == "shipped" else Path(config.start)
    need((folder / "model_index.json").is_file(), "start", config.start,
         "the folder of a teacher, or 'shipped'")  # fmt: skip
    return folder


def prepare_tokenizer(config: TeacherConfig, run: Path) -> CLIPTokenizer:
    """Return the run's tokenizer, made where it is missing."""
    folder, start = run / "tokenizer", start_folder(config)
    if not folder.exists() and start:
        write_folder(folder, CLIPTokenizer.from_pretrained(start / "tokenizer").save_pretrained)
    elif not folder.exists():
        write_folder(folder, lambda path: save_tokenizer(path, config.text.length))
    return CLIPTokenizer.from_pretrained(folder)


def prepare_autoencoder(config: TeacherConfig, run: Path) -> AutoencoderKL:
    """Return the run's autoencoder, trained where it is missing, with its latents' scale."""
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
    """Return the run's text encoder, trained where it is missing, frozen."""
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
        FileNotFoundError: the denoiser has no checkpoint yet.
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
        scheduler=PNDMScheduler(**SCHEDULER, skip_prk_steps=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(dtype=torch.float16)
    folder = folder or run / "teacher"
    write_folder(folder, lambda path: save_pipeline(pipeline, path))
    return folder


def save_pipeline(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Write a pipeline that is loaded in fp32 unless asked otherwise, and that names no path.

    fp32 is diffusers' way; transformers would load its part as it was stored, and they would clash.
    """
    pipeline.save_pretrained(folder)
    for path in folder.glob("*/config.json"):
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings.pop("_name_or_path", None)
        if path.parent.name == "text_encoder":
            settings["dtype"] = "float32"
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def latent_size(autoencoder: AutoencoderKL) -> int:
    """Return the height and width of the latents of a 64 x 64 picture."""
    return 64 >> (len(autoencoder.config["block_out_channels"]) - 1)

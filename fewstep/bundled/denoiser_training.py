"""Train the bundled denoiser: a UNet and its text encoder together, by ε-prediction."""

# diffusers hands out its configs, outputs and layers without types
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from fewstep.bundled.optimising import LossAt, optimise
from fewstep.bundled.pool import Pool, tokens
from fewstep.bundled.teacher_config import DenoiserSettings, TeacherConfig
from fewstep.diffusion.random import generator
from fewstep.diffusion.schedule import NoiseSchedule

SCHEDULER = {  # Stable Diffusion 1.5's
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "set_alpha_to_one": False,
}


class Teacher(nn.Module):
    """A text encoder and the UNet that listens to it."""

    def __init__(self, settings: DenoiserSettings, latent_shape: torch.Size, tokenizer) -> None:
        super().__init__()
        self.text_encoder = build_text_encoder(settings, tokenizer)
        self.unet = build_unet(settings, latent_shape)


def build_text_encoder(settings: DenoiserSettings, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return an untrained text encoder for a tokenizer."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.text_width,
            intermediate_size=4 * settings.text_width,
            projection_dim=settings.text_width,
            num_hidden_layers=settings.text_layers,
            num_attention_heads=settings.text_heads,
            max_position_embeddings=settings.text_length,
            hidden_act="quick_gelu",
            initializer_factor=1.0,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_unet(settings: DenoiserSettings, latent_shape: torch.Size) -> UNet2DConditionModel:
    """Return an untrained UNet for latents of [channel, height, width]."""
    down = {True: "CrossAttnDownBlock2D", False: "DownBlock2D"}
    up = {True: "CrossAttnUpBlock2D", False: "UpBlock2D"}
    return UNet2DConditionModel(
        sample_size=latent_shape[-1],
        in_channels=latent_shape[0],
        out_channels=latent_shape[0],
        block_out_channels=settings.channels,
        down_block_types=tuple(down[level] for level in settings.attention),
        up_block_types=tuple(up[level] for level in reversed(settings.attention)),
        layers_per_block=settings.num_layers,
        attention_head_dim=settings.heads,  # the number of heads, as in Stable Diffusion's configs
        cross_attention_dim=settings.text_width,
        norm_num_groups=settings.groups,
    )


def train_denoiser(
    config: TeacherConfig,
    run: Path,
    pool: Pool,
    tokenizer: CLIPTokenizer,
    scale: float,
    start: Path | None = None,
) -> Teacher:
    """Train UNet and text encoder, or continue, and return their moving average.

    The first weights are those of the teacher in the folder `start`, or drawn by lot.
    """
    torch.manual_seed(config.seed)  # initial weights
    teacher = Teacher(config.denoiser, pool.means.shape[1:], tokenizer)
    if start is not None:
        for name, part in teacher.named_children():
            stored = type(part).from_pretrained(start / name)
            part.load_state_dict(stored.state_dict())
    loss_at = losses_of(teacher, config, pool, tokens(tokenizer, [""])[0], scale)
    trained = optimise("denoiser", teacher, loss_at, config.denoiser, run, config.denoiser.ema)
    return trained.eval()


def losses_of(
    teacher: Teacher, config: TeacherConfig, pool: Pool, empty: Tensor, scale: float
) -> LossAt:
    """Return the weighted squared error of ε on a batch that is a function of the step.

    The weight is that of a plain error of x_0, up to a maximum: where there is much noise, errors
    of ε are small, yet it is there that the picture is composed. The empty prompt takes the
    caption's place now and then, for classifier-free guidance (Ho and Salimans 2022).

    Source: Hang et al. 2023 (Min-SNR), section 3.4, with another maximum.
    """
    settings = config.denoiser
    size = settings.batch_size
    schedule = NoiseSchedule.from_config(SCHEDULER)

    def loss_at(step: int) -> dict[str, Tensor]:
        draw = generator(config.seed, "denoiser", step)
        x_0, captions = batch_of(pool, size, draw)
        captions[torch.rand(size, generator=draw) < settings.caption_dropout] = empty
        t = spread_timesteps(size, schedule.num_train_timesteps, draw)
        noise = torch.randn(x_0.shape, generator=draw)
        x_t = schedule.add_noise(scale * x_0, noise, t)
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
            eps = teacher.unet(x_t, t, teacher.text_encoder(captions)[0], return_dict=False)[0]
        error = (eps.float() - noise).square().mean(dim=(1, 2, 3))
        weight = (settings.snr_weight / schedule.snr(t)).clamp(max=settings.max_weight)
        return {"loss": (weight * error).mean(), "error": error.mean()}

    return loss_at


def batch_of(pool: Pool, size: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw latents from the posteriors of random scenes, each with one of its captions."""
    scenes = torch.randint(len(pool.means), (size,), generator=draw)
    which = torch.randint(pool.captions.shape[1], (size,), generator=draw)
    mean, spread = pool.means[scenes].float(), pool.spreads[scenes].float()
    x_0 = mean + spread * torch.randn(mean.shape, generator=draw)
    return x_0, pool.captions[scenes, which].long()


def spread_timesteps(size: int, num_timesteps: int, draw: torch.Generator) -> Tensor:
    """Draw one timestep in each of `size` equal parts: even batches make a steadier loss."""
    return ((torch.arange(size) + torch.rand(size, generator=draw)) * num_timesteps / size).long()

"""Train the bundled denoiser: a UNet conditioned on a frozen text encoder, by ε-prediction."""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from fewstep.diffusion.random import generator
from fewstep.diffusion.schedule import NoiseSchedule
from recipes.bundled_teacher.attention_supervision import attention_loss, record_cross_attention
from recipes.bundled_teacher.config import TeacherConfig
from recipes.bundled_teacher.optimising import LossAt, optimise, working_precision
from recipes.bundled_teacher.pool import Pool, tokens
from recipes.bundled_teacher.same_caption import SameCaption
from recipes.bundled_teacher.slots import NO_SLOT
from recipes.bundled_teacher.widening import widen

SCHEDULER = {  # Stable Diffusion 1.5's
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "set_alpha_to_one": False,
}


def build_unet(config: TeacherConfig, latent_shape: torch.Size) -> UNet2DConditionModel:
    """Return an untrained UNet for latents of [channel, height, width]."""
    settings = config.denoiser
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
        cross_attention_dim=config.text.width,
        norm_num_groups=settings.groups,
    )


def train_denoiser(
    config: TeacherConfig,
    run: Path,
    pool: Pool,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    scale: float,
    start: Path | None = None,
) -> UNet2DConditionModel:
    """Train the UNet, or continue, and return its moving average.

    The initial weights are those of the teacher in the folder `start`, widened if it has fewer
    channels, or random.
    """
    torch.manual_seed(config.seed)  # initial weights
    unet = build_unet(config, pool.means.shape[1:])
    if start is not None:
        stored = UNet2DConditionModel.from_pretrained(start / "unet")
        widen(stored.float(), unet)
    unet.to(memory_format=torch.channels_last)  # a quarter faster on a processor
    empty = tokens(tokenizer, [""])[0]
    loss_at = losses_of(unet, text_encoder, config, pool, empty, scale)
    trained = optimise("denoiser", unet, loss_at, config.denoiser, run, config.denoiser.ema)
    return trained.eval()


def losses_of(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    config: TeacherConfig,
    pool: Pool,
    empty: Tensor,
    scale: float,
) -> LossAt:
    """Return the weighted squared error of ε on a batch that is a function of the step.

    The weight, noise over signal, gives every noise level about the same share of the loss: where
    there is much noise, errors of ε are small, yet it is there that the image is composed. A
    fraction of the captions is replaced by the empty prompt, for classifier-free guidance (Ho and
    Salimans 2022).
    """
    settings = config.denoiser
    size = settings.batch_size
    schedule = NoiseSchedule.from_config(SCHEDULER)
    same_caption = SameCaption.of(pool.captions)
    recorded = record_cross_attention(unet)

    def loss_at(step: int) -> dict[str, Tensor]:
        draw = generator(config.seed, "denoiser", step)
        scenes, which = (torch.randint(n, (size,), generator=draw) for n in pool.captions.shape[:2])
        others = same_caption.draw(scenes, which, settings.peers, draw)
        captions = pool.captions[scenes, which].long()
        dropped = torch.rand(size, generator=draw) < settings.caption_dropout
        captions[dropped] = empty
        slots = pool.slots[scenes, which].float()
        slots[dropped, :, 3:] = NO_SLOT
        others[dropped] = torch.randint(len(pool.means), others[dropped].shape, generator=draw)

        candidates = scale * latents_of(pool, torch.cat([scenes[:, None], others], 1), draw)
        t = spread_timesteps(size, schedule.num_train_timesteps, draw)
        noise = torch.randn(candidates[:, 0].shape, generator=draw)
        x_t = schedule.add_noise(candidates[:, 0], noise, t)
        target = expected_noise(x_t, candidates, t, schedule)
        with torch.no_grad():
            text = text_encoder(captions).last_hidden_state
        with working_precision(settings):
            eps = unet(x_t, t, text, return_dict=False)[0]
        error = (eps.float() - target).square().mean(dim=(1, 2, 3))
        attention = attention_loss(recorded, slots)
        loss = (schedule.noise_to_signal(t) * error).mean() + settings.looking * attention
        return {"loss": loss, "error": error.mean(), "looking": attention}

    return loss_at


def latents_of(pool: Pool, scenes: Tensor, draw: torch.Generator) -> Tensor:
    """Draw from the posteriors of scenes: [*, channel, height, width] for numbers of any shape."""
    mean, spread = pool.means[scenes].float(), pool.spreads[scenes].float()
    return mean + spread * torch.randn(mean.shape, generator=draw)


def expected_noise(x_t: Tensor, candidates: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Return the noise in x_t, averaged over the candidates for its x_0.

    `candidates` is [batch, candidate, channel, height, width]: the first one is the true x_0, the
    others were drawn from the same distribution. Each is weighted by its likelihood. The average
    over the draws is the noise that was added, but where many images could be behind the noise
    the variance is far smaller.

    Source: Xu et al. 2023, "Stable Target Field", arXiv:2302.00670, equation 6.
    """
    alpha, sigma = schedule.levels(t, x_t)
    misfit = (x_t[:, None] - alpha[:, None] * candidates).square().sum(dim=(2, 3, 4))
    likelihood = torch.softmax(-misfit / (2 * sigma.flatten(1).square()), dim=1)
    x_0 = (likelihood[..., None, None, None] * candidates).sum(dim=1)
    return (x_t - alpha * x_0) / sigma


def spread_timesteps(size: int, num_timesteps: int, draw: torch.Generator) -> Tensor:
    """Draw one timestep in each of `size` equal parts, which reduces the variance of the loss."""
    return ((torch.arange(size) + torch.rand(size, generator=draw)) * num_timesteps / size).long()

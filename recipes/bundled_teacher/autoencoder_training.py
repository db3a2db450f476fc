"""Train the bundled autoencoder: scenes to latents and back."""

from pathlib import Path
from typing import cast

import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from fewstep.diffusion.random import generator
from recipes.bundled_teacher.config import AutoencoderSettings, TeacherConfig
from recipes.bundled_teacher.optimising import LossAt, optimise, working_precision
from recipes.bundled_teacher.pool import images, scene_at


def build_autoencoder(settings: AutoencoderSettings) -> AutoencoderKL:
    """Return an untrained autoencoder; its latents are 2 ** (levels - 1) times smaller."""
    levels = len(settings.channels)
    return AutoencoderKL(
        block_out_channels=settings.channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=settings.num_layers,
        latent_channels=settings.latent_channels,
        norm_num_groups=settings.groups,
        sample_size=64,
    )


def train_autoencoder(config: TeacherConfig, run: Path) -> AutoencoderKL:
    """Train the autoencoder, or continue, and return its moving average."""
    torch.manual_seed(config.seed)  # initial weights
    network = build_autoencoder(config.autoencoder)
    start_linear(network)
    loss_at = losses_of(network, config)
    return optimise("autoencoder", network, loss_at, config.autoencoder, run, ema=0.99).eval()


@torch.no_grad()
def start_linear(network: AutoencoderKL) -> None:
    """Initialise as a nearly linear map with little noise on the latents.

    Residual branches start at zero and the convolutions on the main path keep the variance:
    otherwise colours are lost between random branches for the first thousands of steps.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.mul_(3**0.5)  # PyTorch's default has a third of the variance
            nn.init.zeros_(cast(Tensor, module.bias))
    for module in network.modules():
        if isinstance(module, ResnetBlock2D):
            module.conv2.weight.zero_()
        if isinstance(module, Attention):
            module.to_out[0].weight.zero_()
    log_variance = cast(Tensor, network.quant_conv.bias).chunk(2)[1]
    log_variance.fill_(-5)


def losses_of(network: AutoencoderKL, config: TeacherConfig) -> LossAt:
    """Return the losses of a step on its own scenes; none is used twice."""
    settings = config.autoencoder
    size = settings.batch_size

    def loss_at(step: int) -> dict[str, Tensor]:
        numbers = range(step * size, (step + 1) * size)
        x = images(scene_at(config.seed, "autoencoder", number)[0] for number in numbers)
        with working_precision(settings):
            posterior = network.encode(x).latent_dist
            noise = generator(config.seed, "autoencoder", step)
            y = network.decode(posterior.sample(noise)).sample
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        error = y.float() - x
        loss = settings.kl_weight * kl + penalty(error)
        loss = loss + settings.hue_weight * penalty(hues(error))
        loss = loss + settings.edge_weight * sum(penalty(error.diff(dim=dim)) for dim in (-1, -2))
        return {"loss": loss, "error": error.abs().mean() / 2, "kl": kl}

    return loss_at


def penalty(error: Tensor) -> Tensor:
    """Return the mean squared error, for the few pixels that are far off, plus a little L1.

    L1 alone is dominated by the plain background, where nearly all pixels are.
    """
    return error.square().mean() + 0.05 * error.abs().mean()


def hues(error: Tensor) -> Tensor:
    """Return blue against yellow, and green against magenta twice.

    Brightness explains most of an image: without a loss of their own, hues are learned last.
    """
    red, green, blue = error.unbind(1)
    return torch.stack([blue - (red + green) / 2, 2 * green - red - blue], dim=1)


@torch.no_grad()
def latent_scale(network: nn.Module, config: TeacherConfig, count: int = 512) -> float:
    """Return the factor that gives latents of unseen scenes the deviation `latent_std`."""
    x = images(scene_at(config.seed, "check", number)[0] for number in range(count))
    latents = torch.cat([network.encode(part).latent_dist.mode() for part in x.split(64)])
    return float(config.autoencoder.latent_std / latents.std())

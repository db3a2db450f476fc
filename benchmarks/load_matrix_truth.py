"""The reference of every reader: a thin UNet of Stable Diffusion 1.5 and LoRAs for it."""

from functools import cache

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor

RANK, ALPHA = 4, 8.0
UNET = {
    "sample_size": 8,
    "block_out_channels": (8, 16, 16, 16),
    "cross_attention_dim": 8,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
"""Stable Diffusion 1.5 made thin: its module tree, without the shortcuts between equal widths."""


def thin_unet() -> UNet2DConditionModel:
    """Return the UNet with fixed random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet2DConditionModel(**UNET).eval()  # type: ignore[arg-type]


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Return latents, timesteps and prompt embeddings."""
    draw = torch.Generator().manual_seed(1)
    latents, text = (torch.randn(2, *shape, generator=draw) for shape in ((4, 8, 8), (5, 8)))
    return latents, torch.tensor([999, 249]), text


@torch.no_grad()
def output_of(unet: UNet2DConditionModel) -> Tensor:
    """Return the output of a UNet for the inputs."""
    return unet(*inputs(), return_dict=False)[0]


@cache
def trained(targets: tuple[str, ...]) -> tuple[dict[str, Tensor], Tensor]:
    """Return a LoRA as after training, alpha not folded in, and the UNet's output with it.

    Both come from PEFT itself.
    """
    unet = thin_unet()
    config = LoraConfig(
        r=RANK, lora_alpha=int(ALPHA), init_lora_weights=False, target_modules=list(targets)
    )
    with torch.random.fork_rng():
        torch.manual_seed(2)
        inject_adapter_in_model(config, unet)
    for name, weight in unet.named_parameters():
        if ".lora_B." in name:
            weight.data *= 0.3  # an update of the size after training
    weights = {
        f"{name}.{part}.weight": getattr(layer, part)["default"].weight.detach()
        for name, layer in unet.named_modules()
        if isinstance(layer, LoraLayer)
        for part in ("lora_A", "lora_B")
    }
    return weights, output_of(unet.eval())

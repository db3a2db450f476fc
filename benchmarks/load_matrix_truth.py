"""What every reader is held against: a thin UNet of Stable Diffusion 1.5 and LoRAs for it."""

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
"""Stable Diffusion 1.5 made thin: its module tree, but for one shortcut that equal widths spare."""


def thin_unet() -> UNet2DConditionModel:
    """Return random weights that are a function of nothing but this code."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet2DConditionModel(**UNET).eval()  # type: ignore[arg-type]


def question() -> tuple[Tensor, Tensor, Tensor]:
    """Return latents, timesteps and prompts to ask a UNet with."""
    draw = torch.Generator().manual_seed(1)
    latents, text = (torch.randn(2, *shape, generator=draw) for shape in ((4, 8, 8), (5, 8)))
    return latents, torch.tensor([999, 249]), text


@torch.no_grad()
def answer(unet: UNet2DConditionModel) -> Tensor:
    """Return what a UNet says to the question."""
    return unet(*question(), return_dict=False)[0]


@cache
def trained(targets: tuple[str, ...]) -> tuple[dict[str, Tensor], Tensor]:
    """Return a LoRA as training leaves it, alpha unfolded, and the UNet's answer with it.

    Both are PEFT's own.
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
            weight.data *= 0.3  # an update as large as training makes it
    weights = {
        f"{name}.{part}.weight": getattr(layer, part)["default"].weight.detach()
        for name, layer in unet.named_modules()
        if isinstance(layer, LoraLayer)
        for part in ("lora_A", "lora_B")
    }
    return weights, answer(unet.eval())

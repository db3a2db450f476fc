"""Gradient checkpointing: activations are computed again in the backward pass instead of kept."""

from collections.abc import Iterable
from typing import Literal

from torch import nn

from fewstep.models.base import ModelError

Checkpointing = Literal["none", "selective", "full"]


def set_checkpointing(network: nn.Module, kind: Checkpointing) -> None:
    """Checkpoint nothing, everything, or what saves most for its time.

    `selective` are the transformers in the two finest levels of a UNet that have any (64 x 64 and
    32 x 32 in Stable Diffusion 1 and in XL): in the first, two thirds of the activations' memory
    for two fifths of a forward pass. A recomputed part sees the adapters that are active then: the
    student's have to be.

    Raises:
        ModelError: if the network knows no checkpointing, or has no levels to select.
    """
    if kind == "none":
        getattr(network, "disable_gradient_checkpointing", lambda: None)()
        return
    needed = "down_blocks" if kind == "selective" else "enable_gradient_checkpointing"
    if not hasattr(network, needed):
        raise ModelError(f"train.checkpointing is {kind!r}, which this network cannot: use 'none'")
    network.enable_gradient_checkpointing()
    if kind == "selective":
        levels = zip(network.down_blocks, reversed(network.up_blocks), strict=True)
        found = [transformers for level in levels if (transformers := _transformers(level))]
        selected = {module for transformers in found[:2] for module in transformers}
        for module in network.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = module in selected


def _transformers(level: Iterable[nn.Module]) -> list[nn.Module]:
    return [module for block in level for module in block.modules()
            if type(module).__name__ == "Transformer2DModel"]  # fmt: skip

"""Gradient checkpointing: activations are computed again in the backward pass instead of kept."""

# diffusers hands out its networks without types
# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false

from typing import Literal

from torch import nn

Checkpointing = Literal["none", "selective", "full"]


def set_checkpointing(network: nn.Module, kind: Checkpointing) -> None:
    """Checkpoint nothing, everything, or what saves most for its time.

    `selective` are the transformers in the finer half of the UNet's levels (64 x 64 and 32 x 32 in
    Stable Diffusion 1): two thirds of the activations' memory for two fifths of a forward pass. A
    recomputed part sees the adapters that are on then: the student's have to be.
    """
    if kind == "none":
        network.disable_gradient_checkpointing()
        return
    network.enable_gradient_checkpointing()
    if kind == "selective":
        num_levels = len(network.down_blocks)
        finer = [*network.down_blocks[: num_levels // 2], *network.up_blocks[-(num_levels // 2) :]]
        chosen = {
            id(module)
            for block in finer
            for module in block.modules()
            if type(module).__name__ == "Transformer2DModel"
        }
        for module in network.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = id(module) in chosen

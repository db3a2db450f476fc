"""Train a UNet on with more layers in each block: it begins as the one that it grows out of."""

# diffusers hands out its configs without types
# pyright: reportAttributeAccessIssue=false

import re

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from fewstep.config import need

SILENT = (".conv2.", ".proj_out.", ".conv_shortcut.")
"""The weights by which a layer adds to its input; zero, they leave it the identity."""
SETTINGS = {
    "block_out_channels": "channels",
    "attention_head_dim": "heads",
    "norm_num_groups": "groups",
    "down_block_types": "attention",
}
"""What both networks have to share, by the names that settings give it."""


@torch.no_grad()
def deepen(stored: UNet2DConditionModel, unet: UNet2DConditionModel) -> None:
    """Give `unet` the weights of `stored`, of which each block may have fewer layers.

    The further layers are a block's last ones on the way down, and on the way up, where skips come
    back in reverse, those after its first one. They begin as the identity: both networks compute
    the same.

    Raises:
        SettingError: if the networks differ in more than their layers.
    """
    for entry, setting in SETTINGS.items():
        mine, theirs = (net.config[entry] for net in (unet, stored))
        need(mine == theirs, f"denoiser.{setting}", mine, f"{theirs}, as `start` has them")
    more = unet.config.layers_per_block - stored.config.layers_per_block
    need(more >= 0, "denoiser.num_layers", unet.config.layers_per_block,
         f"{stored.config.layers_per_block} or more, as `start` has that many")  # fmt: skip
    weights = unet.state_dict()
    given = {moved(name, more): weight for name, weight in stored.state_dict().items()}
    for name in weights.keys() - given.keys():
        if any(part in name for part in SILENT):
            weights[name].zero_()
        if name.endswith("conv_shortcut.weight"):
            nn.init.dirac_(weights[name])  # keeps what comes from below, drops the skip
    unet.load_state_dict(weights | given)


def moved(name: str, more: int) -> str:
    """Return what a weight is called where each block has `more` layers.

    >>> moved("up_blocks.0.resnets.1.conv1.weight", 2)
    'up_blocks.0.resnets.3.conv1.weight'
    >>> moved("up_blocks.0.resnets.0.conv1.weight", 2)
    'up_blocks.0.resnets.0.conv1.weight'
    """
    later = re.fullmatch(r"(up_blocks\.\d+\.(?:resnets|attentions)\.)([1-9]\d*)(\..*)", name)
    return f"{later[1]}{int(later[2]) + more}{later[3]}" if later else name

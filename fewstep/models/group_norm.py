"""Group norms in the memory layout in which a processor is faster."""

from typing import Any

import torch
from torch import Tensor, nn

PIXELS = 1024
"""Below so many, PyTorch's kernel for channels last visits the channels of each group alone."""
FEW = {4: 1, 2: 8}
"""By the bytes of a number: up to so many channels a group, that takes longer than two copies."""


class GroupNorm(nn.GroupNorm):
    """Group norm that takes small images of few channels a group out of channels last, and back.

    On a processor that is up to 20 times as fast in half precision, and 4 times in fp32
    (docs/experiments.md).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised images, in the memory layout of `x`."""
        few = self.num_channels <= FEW.get(x.element_size(), 0) * self.num_groups
        last = x.device.type == "cpu" and x.dim() == 4 and not x.is_contiguous()
        if not (few and last and x[0, 0].numel() < PIXELS):
            return super().forward(x)
        return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)


def with_fast_norms(network: Any) -> Any:
    """Give a network's group norms, in place, the fast forward pass; their weights stay."""
    for module in network.modules():
        if type(module) is nn.GroupNorm:
            module.__class__ = GroupNorm
    return network

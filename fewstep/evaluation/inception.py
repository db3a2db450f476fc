"""Inception v3 as FID uses it: the network of the 2015 TensorFlow release, up to its last pooling.

Its average poolings leave the padding out, its last block pools by the maximum. The names are those
of the public PyTorch port of the weights.

Source: Szegedy et al. 2016; Heusel et al. 2017 for its use; M. Seitzer's pytorch-fid for the port.
"""

import re
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from fewstep.errors import UserError

SIDE = 299
AVERAGE = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
MAXIMUM, HALVE = nn.MaxPool2d(3, stride=1, padding=1), nn.MaxPool2d(3, stride=2)

# A line is a branch, a word a layer, "|" between two layers side by side. A layer is its name
# without "branch", its channels, its kernel and "/2" for stride 2 without padding.
A = """
1x1=64:1x1
5x5_1=48:1x1 5x5_2=64:5x5
3x3dbl_1=64:1x1 3x3dbl_2=96:3x3 3x3dbl_3=96:3x3
_pool={0}:1x1"""
B = """
3x3=384:3x3/2
3x3dbl_1=64:1x1 3x3dbl_2=96:3x3 3x3dbl_3=96:3x3/2
"""
C = """
1x1=192:1x1
7x7_1={0}:1x1 7x7_2={0}:1x7 7x7_3=192:7x1
7x7dbl_1={0}:1x1 7x7dbl_2={0}:7x1 7x7dbl_3={0}:1x7 7x7dbl_4={0}:7x1 7x7dbl_5=192:1x7
_pool=192:1x1"""
D = """
3x3_1=192:1x1 3x3_2=320:3x3/2
7x7x3_1=192:1x1 7x7x3_2=192:1x7 7x7x3_3=192:7x1 7x7x3_4=192:3x3/2
"""
E = """
1x1=320:1x1
3x3_1=384:1x1 3x3_2a=384:1x3|3x3_2b=384:3x1
3x3dbl_1=448:1x1 3x3dbl_2=384:3x3 3x3dbl_3a=384:1x3|3x3dbl_3b=384:3x1
_pool=192:1x1"""
LAYER = re.compile(r"(\w+)=(\d+):(\d)x(\d)(/2)?")


def convolution(
    before: int, after: int, kernel: tuple[int, int], stride: int = 1, pad: bool = False
) -> nn.Sequential:
    """Return a convolution with batch norm and ReLU, from `before` to `after` channels."""
    padding = (kernel[0] // 2, kernel[1] // 2) if pad else 0
    return nn.Sequential(OrderedDict(
        conv=nn.Conv2d(before, after, kernel, stride, padding, bias=False),
        bn=nn.BatchNorm2d(after, eps=0.001),
        relu=nn.ReLU(inplace=True),
    ))  # fmt: skip


class Block(nn.Module):
    """Branches of convolutions side by side, the last of them after a pooling."""

    def __init__(self, before: int, table: str, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool
        self.branches: list[list[list[str]]] = []
        for branch in table.split("\n")[1:]:
            width, names = before, []
            for word in branch.split():
                layers = LAYER.findall(word)
                for name, channels, height, length, half in layers:
                    kernel, stride = (int(height), int(length)), 2 if half else 1
                    layer = convolution(width, int(channels), kernel, stride, pad=not half)
                    self.add_module(f"branch{name}", layer)
                width = int(layers[0][1])
                names.append([f"branch{name}" for name, *_ in layers])
            self.branches.append(names)

    def forward(self, x: Tensor) -> Tensor:
        """Return the branches' maps side by side, [batch, channels, height, width]."""
        parts: list[Tensor] = []
        for branch in self.branches:
            ends = [self.pool(x) if branch is self.branches[-1] else x]
            for names in branch:
                ends = [self.get_submodule(name)(ends[0]) for name in names]
            parts += ends
        return torch.cat(parts, dim=1)


class Inception(nn.Sequential):
    """Images [batch, 3, 299, 299] from -1 to 1 to features [batch, 2048]."""

    def __init__(self) -> None:
        super().__init__(OrderedDict(
            Conv2d_1a_3x3=convolution(3, 32, (3, 3), stride=2),
            Conv2d_2a_3x3=convolution(32, 32, (3, 3)),
            Conv2d_2b_3x3=convolution(32, 64, (3, 3), pad=True),
            maxpool1=HALVE,
            Conv2d_3b_1x1=convolution(64, 80, (1, 1)),
            Conv2d_4a_3x3=convolution(80, 192, (3, 3)),
            maxpool2=HALVE,
            Mixed_5b=Block(192, A.format(32), AVERAGE),
            Mixed_5c=Block(256, A.format(64), AVERAGE),
            Mixed_5d=Block(288, A.format(64), AVERAGE),
            Mixed_6a=Block(288, B, HALVE),
            Mixed_6b=Block(768, C.format(128), AVERAGE),
            Mixed_6c=Block(768, C.format(160), AVERAGE),
            Mixed_6d=Block(768, C.format(160), AVERAGE),
            Mixed_6e=Block(768, C.format(192), AVERAGE),
            Mixed_7a=Block(768, D, HALVE),
            Mixed_7b=Block(1280, E, AVERAGE),
            Mixed_7c=Block(2048, E, MAXIMUM),
        ))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Return the features [batch, 2048] of images [batch, 3, 299, 299] in [-1, 1]."""
        return super().forward(x).mean(dim=(2, 3))


def load_inception(path: Path) -> Inception:
    """Load the weights file of pytorch-fid.

    Raises:
        UserError: if it holds other weights.
    """
    network = Inception()
    weights = {n: t for n, t in network.state_dict().items() if n.endswith("num_batches_tracked")}
    for name, tensor in torch.load(path, map_location="cpu", weights_only=True).items():
        if not name.startswith(("fc.", "AuxLogits.")):
            weights[name] = tensor
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} holds other weights than FID's Inception: {reason}") from error
    return network.eval().requires_grad_(False)

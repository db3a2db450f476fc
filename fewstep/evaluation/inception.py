"""Inception v3 as FID uses it: the network of the 2015 TensorFlow release, up to its last pooling.

Its average poolings leave the padding out, its last block pools by the maximum. The names are those
of the public PyTorch port of the weights.

Source: Szegedy et al. 2016; Heusel et al. 2017 for its use; M. Seitzer's pytorch-fid for the port.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.errors import UserError

Kernel = int | tuple[int, int]
Layer = tuple[str, int, Kernel, int]
"""Name, channels, kernel, stride; with stride 1 the sides stay as they are."""
Chain = Sequence[Layer | tuple[Layer, Layer]]
"""Layers one after another; the last may be two, side by side."""

WIDE, HIGH = (1, 7), (7, 1)
SIDE = 299


class Conv(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, before: int, after: int, kernel: Kernel, stride: int, pad: bool) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if pad else 0
        self.conv = nn.Conv2d(before, after, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Block(nn.Module):
    """Chains of convolutions side by side, the last of them after a pooling."""

    def __init__(self, before: int, chains: Sequence[Chain], pool: str) -> None:
        super().__init__()
        self.pool = pool
        self.names = [[[layer[0] for layer in _sides(step)] for step in chain] for chain in chains]
        for chain in chains:
            width = before
            for step in chain:
                for name, channels, kernel, stride in _sides(step):
                    self.add_module(name, Conv(width, channels, kernel, stride, pad=stride == 1))
                width = _sides(step)[0][1]

    def forward(self, x: Tensor) -> Tensor:
        parts: list[Tensor] = []
        for number, chain in enumerate(self.names):
            y = self.pooled(x) if number == len(self.names) - 1 else x
            for (name,) in chain[:-1]:
                y = self.get_submodule(name)(y)
            parts += [self.get_submodule(name)(y) for name in chain[-1]] if chain else [y]
        return torch.cat(parts, dim=1)

    def pooled(self, x: Tensor) -> Tensor:
        if self.pool == "halve":
            return F.max_pool2d(x, 3, 2)
        if self.pool == "max":
            return F.max_pool2d(x, 3, 1, 1)
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _sides(step: Layer | tuple[Layer, Layer]) -> Sequence[Layer]:
    return [step] if isinstance(step[0], str) else step  # type: ignore[return-value]


def _a(before: int, pooled: int) -> Block:
    return Block(before, [
        [("branch1x1", 64, 1, 1)],
        [("branch5x5_1", 48, 1, 1), ("branch5x5_2", 64, 5, 1)],
        [("branch3x3dbl_1", 64, 1, 1), ("branch3x3dbl_2", 96, 3, 1), ("branch3x3dbl_3", 96, 3, 1)],
        [("branch_pool", pooled, 1, 1)],
    ], "average")  # fmt: skip


def _b(before: int) -> Block:
    return Block(before, [
        [("branch3x3", 384, 3, 2)],
        [("branch3x3dbl_1", 64, 1, 1), ("branch3x3dbl_2", 96, 3, 1), ("branch3x3dbl_3", 96, 3, 2)],
        [],
    ], "halve")  # fmt: skip


def _c(inner: int) -> Block:
    return Block(768, [
        [("branch1x1", 192, 1, 1)],
        [("branch7x7_1", inner, 1, 1), ("branch7x7_2", inner, WIDE, 1),
         ("branch7x7_3", 192, HIGH, 1)],
        [("branch7x7dbl_1", inner, 1, 1), ("branch7x7dbl_2", inner, HIGH, 1),
         ("branch7x7dbl_3", inner, WIDE, 1), ("branch7x7dbl_4", inner, HIGH, 1),
         ("branch7x7dbl_5", 192, WIDE, 1)],
        [("branch_pool", 192, 1, 1)],
    ], "average")  # fmt: skip


def _d() -> Block:
    return Block(768, [
        [("branch3x3_1", 192, 1, 1), ("branch3x3_2", 320, 3, 2)],
        [("branch7x7x3_1", 192, 1, 1), ("branch7x7x3_2", 192, WIDE, 1),
         ("branch7x7x3_3", 192, HIGH, 1), ("branch7x7x3_4", 192, 3, 2)],
        [],
    ], "halve")  # fmt: skip


def _e(before: int, pool: str) -> Block:
    return Block(before, [
        [("branch1x1", 320, 1, 1)],
        [("branch3x3_1", 384, 1, 1),
         (("branch3x3_2a", 384, (1, 3), 1), ("branch3x3_2b", 384, (3, 1), 1))],
        [("branch3x3dbl_1", 448, 1, 1), ("branch3x3dbl_2", 384, 3, 1),
         (("branch3x3dbl_3a", 384, (1, 3), 1), ("branch3x3dbl_3b", 384, (3, 1), 1))],
        [("branch_pool", 192, 1, 1)],
    ], pool)  # fmt: skip


class Inception(nn.Module):
    """Images [batch, 3, 299, 299] from -1 to 1 to features [batch, 2048]."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, 2, pad=False)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, 1, pad=False)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, 1, pad=True)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1, 1, pad=False)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, 1, pad=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _a(192, 32), _a(256, 64), _a(288, 64)
        self.Mixed_6a, self.Mixed_6b = _b(288), _c(128)
        self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = _c(160), _c(160), _c(192)
        self.Mixed_7a = _d()
        self.Mixed_7b, self.Mixed_7c = _e(1280, "average"), _e(2048, "max")

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        return x.mean(dim=(2, 3))


def load_inception(path: Path) -> Inception:
    """Load the weights file of pytorch-fid.

    Raises:
        UserError: if it holds other weights.
    """
    table: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    body = {n: t for n, t in table.items() if not n.startswith(("fc.", "AuxLogits."))}
    network = Inception()
    counters = {n for n in network.state_dict() if n.endswith("num_batches_tracked")}
    try:
        odd = network.load_state_dict(body, strict=False)
    except RuntimeError as error:
        raise UserError(f"{path} holds other weights than FID's Inception: {error}") from error
    if lacking := {*odd.missing_keys} - counters or {*odd.unexpected_keys}:
        raise UserError(
            f"{path} holds other weights than FID's Inception; missing or unknown: "
            f"{', '.join(sorted(lacking)[:3])}, …"
        )
    return network.eval().requires_grad_(False)

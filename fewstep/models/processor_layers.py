"""Layers in the form in which a processor is faster; on a GPU they are torch's own."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

PIXELS = 1024
"""Below so many, PyTorch's group norm for channels last visits the channels of each group alone."""
FEW = {4: 1, 2: 8}
"""By the bytes of a number: up to so many channels a group, that takes longer than two copies."""
POSITIONS = {4: 256, 2: 128}
"""By the bytes of a number: up to so many outputs of all images a convolution is one product."""
LARGE = {1: 2**20, 9: 2**22}
"""By the pixels of a kernel: from so many numbers in a weight on its reordering takes long."""


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


class Conv2d(nn.Conv2d):
    """Convolution that is one matrix product where few pixels meet a large weight.

    A processor's convolution reorders its weight in each call. With a weight of 2560 x 1280 x 3 x 3
    and an image of 8 x 8 that takes longer than the products (docs/experiments.md).
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if input.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            input, weight = input.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        if not self.is_product(input.shape, weight):
            return super()._conv_forward(input, weight, bias)
        return _Product.apply(input, weight, bias, self.stride, self.padding)

    def is_product(self, shape: torch.Size, weight: Tensor) -> bool:
        """Return whether it is faster, and possible, as a product for images of this shape."""
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return False
        plain = self.groups == 1 and self.dilation == (1, 1) and self.padding_mode == "zeros"
        if weight.device.type != "cpu" or len(shape) != 4 or not plain:
            return False
        positions = math.prod(shape) // (shape[1] * math.prod(self.stride))
        return (
            positions <= POSITIONS.get(weight.element_size(), 0)
            and weight.numel() >= LARGE.get(weight[0, 0].numel(), math.inf)
            and weight.movedim(1, -1).is_contiguous()
            and not isinstance(self.padding, str)
        )


class _Product(torch.autograd.Function):
    """A convolution as patches of the image times the weight, whose memory is channels last."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        cut = patches(x, weight.shape[2:], stride, padding)
        rows, matrix = cut.flatten(3).flatten(0, 2), weight.movedim(1, -1).flatten(1)
        y = rows @ matrix.T if bias is None else torch.addmm(bias, rows, matrix.T)
        return y.view(*cut.shape[:3], -1).movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        rows = grad.movedim(1, -1).flatten(0, 2)
        found: list[Tensor | None] = [None] * 5
        if of_x:
            found[0] = input_gradient(x.shape, weight, grad, ctx.stride, ctx.padding)
        if of_weight:
            cut = patches(x, weight.shape[2:], ctx.stride, ctx.padding)
            product = rows.T @ cut.flatten(3).flatten(0, 2)
            fan_out, fan_in, *sides = weight.shape
            found[1] = product.view(fan_out, *sides, fan_in).movedim(-1, 1)
        if of_bias:
            found[2] = rows.sum(0)
        return tuple(found)


def patches(
    x: Tensor, sides: torch.Size, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Return what each output of a convolution sees, [N, height, width, *sides, channels]."""
    (up, left), (down, right) = padding, stride
    padded = functional.pad(x.movedim(1, -1), (0, 0, left, left, up, up)).contiguous()
    size, height, width, channels = padded.shape
    outputs = (height - sides[0]) // down + 1, (width - sides[1]) // right + 1
    n, h, w, c = padded.stride()
    return padded.as_strided((size, *outputs, *sides, channels), (n, down * h, right * w, h, w, c))


def input_gradient(
    shape: torch.Size,
    weight: Tensor,
    grad: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """Return the gradient of an input of this shape, by one product; patches are added in fp32."""
    size, channels, height, width = shape
    (up, left), (down, right), (rows, columns) = padding, stride, weight.shape[2:]
    matrix = weight.movedim(1, -1).flatten(1)
    cut = (grad.movedim(1, -1).flatten(0, 2) @ matrix).view(
        size, *grad.shape[2:], rows, columns, channels
    )
    padded = grad.new_zeros(size, height + 2 * up, width + 2 * left, channels, dtype=torch.float32)
    bottom, end = grad.shape[2] * down, grad.shape[3] * right
    for row in range(rows):
        for column in range(columns):
            part = padded[:, row : row + bottom : down, column : column + end : right]
            part += cut[:, :, :, row, column]
    inside = padded[:, up : up + height, left : left + width]
    return inside.movedim(-1, 1).to(grad.dtype)


FAST = {nn.GroupNorm: GroupNorm, nn.Conv2d: Conv2d}


def with_fast_layers(network: Any) -> Any:
    """Give a network's layers, in place, the fast forward pass; their weights stay."""
    for module in network.modules():
        module.__class__ = FAST.get(type(module), type(module))
    return network

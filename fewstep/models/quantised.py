"""Frozen layers whose weights are kept in 8 or 4 bits and made whole on the way into the product.

The backward pass makes the weight again: nothing of its full size is alive between the two.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from fewstep.config import Quantize
from fewstep.models.processor_layers import Conv2d, input_gradient

LEVELS = 127
"""The largest int8 code: the levels are -127 to 127, so that zero is one of them."""

BLOCK = 64
"""The weights that share a scale in nf4 (Dettmers et al. 2023)."""

PAIR = {2: torch.int32, 4: torch.int64, 8: torch.complex128}
"""By the bytes of a number: the type in which two lie side by side."""

TAIL = 0.5 * (1 / 32 + 1 / 30)
"""The probability beyond the outermost quantile of nf4: midway between those of 16 and 15 levels,
so that the negative half has 8 levels with zero and the positive one 9."""

NARROW = 16
"""Layers with fewer inputs or outputs stay as they are: those that read and write latents."""


def nf4_levels() -> Tensor:
    """Return the 16 levels in [-1, 1]: quantiles of the normal distribution, with zero among them.

    Source: Dettmers et al. 2023 (QLoRA), section 3 and appendix E.
    """
    negative = torch.linspace(1 - TAIL, 0.5, 8, dtype=torch.float64)[:-1]
    positive = torch.linspace(0.5, 1 - TAIL, 9, dtype=torch.float64)
    levels = torch.cat([-torch.special.ndtri(negative), torch.special.ndtri(positive)])
    return (levels / levels.max()).float()


def to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 codes in the weight's shape and the step of each output channel."""
    rows = weight.detach().float()
    step = rows.flatten(1).abs().amax(1).view(-1, *[1] * (weight.dim() - 1)) / LEVELS
    return (rows / step.clamp(min=torch.finfo(step.dtype).tiny)).round().to(torch.int8), step


def to_nf4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return two codes a byte, the first in the high half, and the largest size in each block.

    Blocks are consecutive where weights lie channels last; the last one is filled with zeros. The
    codes of a convolution have four dimensions as well, which PEFT counts.
    """
    flat = _channels_last(weight.detach().float()).flatten()
    blocks = functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scale = blocks.abs().amax(1, keepdim=True)
    levels = nf4_levels().to(flat.device)
    between = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize(blocks / scale.clamp(min=torch.finfo(scale.dtype).tiny), between)
    high, low = codes.to(torch.uint8).view(-1, BLOCK // 2, 2).unbind(-1)
    return (high << 4 | low).view(-1, BLOCK // 2, *[1] * (weight.dim() - 2)), scale


def from_nf4(codes: Tensor, scale: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Return the weight that `to_nf4` stored, in `dtype`."""
    levels = nf4_levels().to(codes.device, dtype)
    pairs = torch.cartesian_prod(levels, levels).view(PAIR[dtype.itemsize]).flatten()
    found = pairs.index_select(0, codes.flatten().int())  # both weights of a byte by one look-up
    blocks = found.view(dtype).view(-1, BLOCK)
    flat = _product(blocks, scale, dtype).flatten()[: math.prod(shape)]
    if len(shape) < 4:
        return flat.view(shape)
    fan_out, fan_in, *sides = shape
    return flat.view(fan_out, *sides, fan_in).movedim(-1, 1)


def _channels_last(weight: Tensor) -> Tensor:
    return weight.movedim(1, -1) if weight.dim() == 4 else weight


def _product(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the product in `dtype`; torch multiplies two types element by element, slowly."""
    return codes.to(dtype).mul_(scale.to(dtype))


class _Product(torch.autograd.Function):
    """A layer's output; only its codes and scales are kept for the gradient of its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: "QuantisedLinear | QuantisedConv2d") -> Tensor:
        ctx.layer, ctx.shape, ctx.dtype = layer, x.shape, x.dtype
        return layer.product(x, layer.whole_weight(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        weight = ctx.layer.whole_weight(grad.dtype)
        return ctx.layer.input_gradient(ctx.shape, weight, grad).to(ctx.dtype), None


class _Quantised(nn.Module):
    """What both kinds of layers share. PEFT makes LoRA factors of a layer's class: those are plain.

    `weight` holds the codes, and `kind` how they are to be read; "none" is a plain weight.
    """

    kind: Quantize = "none"
    weight: Tensor
    bias: nn.Parameter | None
    scale: Tensor
    shape: torch.Size

    def whole_weight(self, dtype: torch.dtype) -> Tensor:
        """Return the weight that is computed with, in `dtype`."""
        if self.kind == "int8":
            return _product(self.weight, self.scale, dtype)
        return from_nf4(self.weight, self.scale, self.shape, dtype)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "none":
            return super().forward(x)
        return _Product.apply(x, self)


class QuantisedLinear(_Quantised, nn.Linear):
    """A frozen linear layer."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return the layer's output with this weight."""
        return functional.linear(x, weight, self.bias)

    def input_gradient(self, shape: torch.Size, weight: Tensor, grad: Tensor) -> Tensor:
        """Return the gradient of an input of this shape, from that of the output."""
        return grad @ weight


class QuantisedConv2d(_Quantised, Conv2d):
    """A frozen convolution."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return the convolution's output with this weight."""
        return self._conv_forward(x, weight, self.bias)

    def input_gradient(self, shape: torch.Size, weight: Tensor, grad: Tensor) -> Tensor:
        """Return the gradient of an input of this shape, from that of the output."""
        if self.is_product(shape, weight):
            return input_gradient(shape, weight, grad, self.stride, self.padding)
        return nn.grad.conv2d_input(
            shape, weight, grad, self.stride, self.padding, self.dilation, self.groups
        )


LAYERS = {nn.Linear: QuantisedLinear, nn.Conv2d: QuantisedConv2d}

TEXT = ("attn2.to_k", "attn2.to_v")
"""The layers of a UNet that read the text."""


def stored(
    network: nn.Module, dtype: torch.dtype = torch.float32, quantize: Quantize = "none"
) -> Any:
    """Freeze a network in place: its wide layers' weights in 8 or 4 bits, all else in `dtype`.

    The codes are of the weights as they are now, before they are rounded to `dtype`. `layer_kind`
    says which layer is kept how.
    """
    if quantize != "none":
        for name, module in network.named_modules():
            if type(module) in LAYERS and min(module.weight.shape[:2]) >= NARROW:
                _quantise(module, layer_kind(name, network, quantize))
    for weight in network.parameters():
        weight.data = weight.data.to(dtype)
    return network.requires_grad_(False).eval()


def layer_kind(name: str, network: nn.Module, quantize: Quantize) -> Quantize:
    """Return how the weight of a wide layer is kept: a UNet's finer levels in more bits.

    No layer after the finest level mends what is rounded there, and it has few weights: it stays
    as it is. nf4 keeps the rest of the finer half, and what reads the text, in 8 bits.
    """
    levels = len(getattr(network, "up_blocks", ()))
    finer = [(f"down_blocks.{i}.", f"up_blocks.{levels - 1 - i}.") for i in range(levels)]
    if name.startswith(sum(finer[:1], ())):
        return "none"
    if name.startswith(sum(finer[1 : (levels + 1) // 2], ())) or name.endswith(TEXT):
        return "int8"
    return quantize


def _quantise(layer: nn.Module, kind: Quantize) -> None:
    if kind == "none":
        return
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    codes, scale = to_int8(weight) if kind == "int8" else to_nf4(weight)
    layer.__class__ = LAYERS[type(layer)]
    del layer.weight
    layer.register_buffer("weight", codes)
    layer.register_buffer("scale", scale)
    layer.kind, layer.shape = kind, weight.shape  # type: ignore[assignment]


@contextmanager
def shown_as_floats(network: nn.Module) -> Iterator[None]:
    """Show empty weights of the scales' type: PEFT 0.8 casts a layer and its factors to it."""
    layers = [m for m in network.modules() if isinstance(m, _Quantised) and m.kind != "none"]
    codes = [layer.weight for layer in layers]
    biases = {layer.bias: layer.bias.data for layer in layers if layer.bias is not None}
    for layer in layers:
        layer.weight = layer.scale.new_empty([0] * len(layer.shape))
    try:
        yield
    finally:
        for layer, weight in zip(layers, codes, strict=True):
            layer.weight = weight
        for bias, values in biases.items():
            bias.data = values


def quantisation(network: nn.Module) -> Quantize:
    """Return how the weights of a network's layers are stored."""
    kinds = {layer.kind for layer in network.modules() if isinstance(layer, _Quantised)}
    return "nf4" if "nf4" in kinds else "int8" if "int8" in kinds else "none"

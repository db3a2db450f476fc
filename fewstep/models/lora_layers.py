"""The fast path: PEFT's LoRA layers with a forward pass that does only what a role needs."""

import math

import torch
from peft.tuners import lora
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional

from fewstep.models.precision import autocast_device

KERNEL_CALL = 1_000_000
"""The products that a processor could do in the time that calling one more kernel takes."""


def active_sum(layer: LoraLayer, x: Tensor) -> Tensor:
    """Return the layer's output for x plus that of each active adapter.

    PEFT's own forward pass first looks for merged and mixed adapters, DoRA and casts, which costs
    more than the products of a small model. Dropout applies only where gradients are computed.
    """
    y = layer.base_layer(x)
    for adapter in layer._active_adapter:
        kept = layer.lora_dropout[adapter](x) if torch.is_grad_enabled() else x
        change = _apply(layer.lora_B[adapter], _apply(layer.lora_A[adapter], kept))
        y = torch.add(y, change, alpha=layer.scaling[adapter])
    return y


def _apply(factor: nn.Module, x: Tensor) -> Tensor:
    """Apply lora_A or lora_B, whose weight is kept in fp32, in the precision of x."""
    weight = factor.weight.to(x.dtype)
    if isinstance(factor, nn.Conv2d):
        return factor._conv_forward(x, weight, None)
    return functional.linear(x, weight)


def merged_weight(layer: LoraLayer, positions: int) -> Tensor | None:
    """Return the layer's weight with its active adapter added, or None where that is slower.

    x (W + B A) equals x W + (x A) B. Which takes fewer operations depends on the rank and on the
    number of `positions` of x (batch x height x width); training also needs the gradient of the
    whole weight. In half precision, and under autocast, W + B A would round a small B A away.
    """
    weight = layer.base_layer.weight
    if torch.is_autocast_enabled(autocast_device(weight.device)):
        return None
    if len(layer._active_adapter) != 1 or weight.dtype != torch.float32:
        return None
    (adapter,) = layer._active_adapter
    learns = torch.is_grad_enabled()
    if learns and not isinstance(layer.lora_dropout[adapter], nn.Identity):
        return None
    down, up = (f[adapter].weight.to(weight.dtype) for f in (layer.lora_A, layer.lora_B))
    (fan_out, fan_in), rank = weight.flatten(1).shape, len(down)
    passes = 3 if learns else 1  # forward, and backward to the input and to the weights
    apart = passes * (rank * (fan_in + fan_out) * positions + 2 * KERNEL_CALL)
    merged = passes * rank * fan_in * fan_out + learns * fan_in * fan_out * positions
    if merged >= apart:
        return None
    total = torch.add(weight, lora_product(up, down, weight), alpha=layer.scaling[adapter])
    return total.as_strided(weight.shape, weight.stride())  # a 1 x 1 kernel forgets its layout


def lora_product(up: Tensor, down: Tensor, weight: Tensor) -> Tensor:
    """Return what a LoRA's two factors add to a layer's weight, in its shape."""
    return (up.flatten(1) @ down.flatten(1)).view_as(weight)


class FastLinear(lora.Linear):
    """PEFT's linear layer with adapters and a fast forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output, by one merged weight where that is faster."""
        weight = merged_weight(self, x.numel() // x.shape[-1])
        if weight is None:
            return active_sum(self, x)
        return functional.linear(x, weight, self.base_layer.bias)


class FastConv2d(lora.Conv2d):
    """PEFT's convolution with adapters and a fast forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution's output, by one merged weight where that is faster."""
        base = self.base_layer
        weight = merged_weight(self, x.numel() // x.shape[1] // math.prod(base.stride))
        if weight is None:
            return active_sum(self, x)
        return base._conv_forward(x, weight, base.bias)


FAST_LAYERS = {lora.Linear: FastLinear, lora.Conv2d: FastConv2d}

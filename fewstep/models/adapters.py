"""One frozen base network in several roles: the adapters that it wears decide who it is."""

# torch and PEFT hand out a module's weights and layers without types
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportPrivateImportUsage=false

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import dataclass

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners import lora
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional

from fewstep.diffusion.prediction import Prediction
from fewstep.diffusion.random import generator
from fewstep.models.base import ModelError, ModelFamily
from fewstep.types import Conditioning, Denoiser, Latents, Timesteps

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TRANSFORMER = (*ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
ALL = (
    *TRANSFORMER,
    "conv1",
    "conv2",
    "conv_shortcut",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
    "time_emb_proj",
)
A, B = ".lora_A.weight", ".lora_B.weight"
"""How PEFT's plain names of a LoRA's two weights end."""
CALL = 1_000_000
"""The products that a processor could do in the time that calling one more kernel takes."""

PRESETS = {"attention": ATTENTION, "transformer": TRANSFORMER, "all": ALL}
"""The modules that a LoRA changes; `all` is the list of the public LCM-LoRA scripts."""


@dataclass(frozen=True)
class Roles:
    """The denoisers of a training step, and the weights behind the two that change.

    `averaged` has the names of `trained`: the moving average that the `ema` role wears.
    """

    student: Denoiser[Prediction]
    teacher: Denoiser[Prediction]
    ema: Denoiser[Prediction]
    trained: Mapping[str, nn.Parameter]
    averaged: Mapping[str, Tensor]
    network: nn.Module


def lora_roles(
    family: ModelFamily, preset: str, rank: int, alpha: float, dropout: float = 0.0, seed: int = 0
) -> Roles:
    """Put two LoRAs, "student" and "ema", on the family's network; its own weights stay frozen.

    The student's adapter is the one that is on, except inside a call of another role, so that a
    recomputed (checkpointed) forward pass sees the weights that the first one saw. All layers read
    what is on from one list, as PEFT's own switch goes through every layer of them.

    Raises:
        ModelError: if no module of the network matches the preset.
    """
    network, targets = family.network, list(PRESETS[preset])
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)  # type: ignore[arg-type]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            for name in ("student", "ema"):
                inject_adapter_in_model(config, network, adapter_name=name)
    except ValueError as error:
        raise ModelError(
            f"adapter.preset {preset!r} matches no module of this network ({error})"
        ) from error
    layers = {n: m for n, m in network.named_modules() if isinstance(m, LoraLayer)}
    _initialise(layers, seed)

    worn = ["student"]
    for layer in layers.values():
        layer.__class__ = LEAN.get(type(layer), type(layer))
        layer.set_adapter("student")  # the one that learns
        layer._active_adapter = worn  # one list for all, so that roles change at no cost

    @contextmanager
    def wearing(*adapters: str) -> Iterator[None]:
        worn[:] = adapters
        try:
            yield
        finally:
            worn[:] = ["student"]

    denoise = family.denoiser(network)
    return Roles(
        student=denoise,
        teacher=_within(wearing, denoise),
        ema=_within(lambda: wearing("ema"), denoise),
        trained=_lora_weights(layers, "student"),
        averaged=_lora_weights(layers, "ema"),
        network=network,
    )


def lora_modules(weights: Mapping[str, Tensor]) -> list[str]:
    """Return the modules that a LoRA by PEFT's plain names changes.

    Raises:
        ModelError: if it has none, or a weight of another name or without its counterpart.
    """
    names = sorted({name.removesuffix(end) for name in weights for end in (A, B)
                    if name.endswith(end)})  # fmt: skip
    if odd := sorted(weights.keys() ^ {name + end for name in names for end in (A, B)}):
        told = "is no part of a LoRA by PEFT's names" if odd[0] in weights else "is missing"
        raise ModelError(f"the weight {odd[0]} {told}; the file was damaged or converted")
    if not names:
        raise ModelError("the LoRA changes nothing: it has no weights")
    return names


def merge_lora(network: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Add a folded LoRA to the network's own weights, in place: the student as one plain network.

    Raises:
        ModelError: if it is no whole LoRA, or one of its modules is not in the network or has
            another shape.
    """
    modules = dict(network.named_modules())
    for name in lora_modules(weights):
        down, up = weights[name + A], weights[name + B]
        weight = getattr(modules.get(name), "weight", None)
        size = len(up) * down[0].numel()
        if weight is None or up[0].numel() != len(down) or weight.numel() != size:
            raise ModelError(
                f"the LoRA changes {name}, which this network has not or in another shape: it was "
                "trained on another base model"
            )
        weight.data += product(up, down, weight).to(weight)
    return network


class LinearInInputPrecision(nn.Linear):
    """A map whose weight is kept in fp32 and which computes in the precision of its input."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.weight.to(input.dtype))


class Conv2dInInputPrecision(nn.Conv2d):
    """A convolution whose weight is kept in fp32 and which computes in its input's precision."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight.to(input.dtype), None)


def worn_sum(layer: LoraLayer, x: Tensor) -> Tensor:
    """Return what a layer and the adapters that it wears make of x.

    PEFT's own forward pass first looks for all that no role has (merged and mixed adapters, DoRA,
    casts), which costs more than the products of a small model. Dropout is for what learns: without
    gradients, as a target, nothing is left out.
    """
    y = layer.base_layer(x)
    for role in layer._active_adapter:
        kept = layer.lora_dropout[role](x) if torch.is_grad_enabled() else x
        change = layer.lora_B[role](layer.lora_A[role](kept))
        y = torch.add(y, change, alpha=layer.scaling[role])
    return y


def worn_weight(layer: LoraLayer, positions: int) -> Tensor | None:
    """Return the layer's weight with the adapter that it wears added, where one product pays.

    x (W + B A) is the same as x W + (x A) B. Which of them takes fewer operations depends on the
    rank and on the `positions` that x has in batch, height and width; what learns needs the whole
    weight's gradient besides. In half precision W + B A would round a small B A away.
    """
    weight = layer.base_layer.weight
    if len(layer._active_adapter) != 1 or weight.dtype != torch.float32:
        return None
    (role,) = layer._active_adapter
    learns = torch.is_grad_enabled()
    if learns and not isinstance(layer.lora_dropout[role], nn.Identity):
        return None
    down, up = layer.lora_A[role].weight, layer.lora_B[role].weight
    (fan_out, fan_in), rank = weight.flatten(1).shape, len(down)
    passes = 3 if learns else 1  # forward, and backward to the input and to the weights
    apart = passes * (rank * (fan_in + fan_out) * positions + 2 * CALL)
    at_once = passes * rank * fan_in * fan_out + learns * fan_in * fan_out * positions
    if at_once >= apart:
        return None
    merged = torch.add(weight, product(up, down, weight), alpha=layer.scaling[role])
    return merged.as_strided(weight.shape, weight.stride())  # a 1 x 1 one forgets its layout


def product(up: Tensor, down: Tensor, like: Tensor) -> Tensor:
    """Return what a LoRA's two weights add to a layer's, in its shape."""
    return (up.flatten(1) @ down.flatten(1)).view_as(like)


class LeanLinear(lora.Linear):
    """PEFT's linear layer with adapters and a lean forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        weight = worn_weight(self, x[..., 0].numel())
        if weight is None:
            return worn_sum(self, x)
        return functional.linear(x, weight, self.base_layer.bias)


class LeanConv2d(lora.Conv2d):
    """PEFT's convolution with adapters and a lean forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        base = self.base_layer
        weight = worn_weight(self, x[:, 0].numel() // math.prod(base.stride))
        if weight is None:
            return worn_sum(self, x)
        return base._conv_forward(x, weight, base.bias)


LEAN = {lora.Linear: LeanLinear, lora.Conv2d: LeanConv2d}
IN_INPUT_PRECISION = {nn.Linear: LinearInInputPrecision, nn.Conv2d: Conv2dInInputPrecision}


def _initialise(layers: Mapping[str, LoraLayer], seed: int) -> None:
    """Draw every lora_A from (seed, module), zero every lora_B; both roles start equal, in fp32.

    Where the base is in half precision, they compute in it too. Autocast, which would do the same,
    also computes every norm in fp32 and keeps its input for the backward pass in twice the size.
    """
    for name, layer in layers.items():
        layer.cast_input_dtype_enabled = False  # PEFT's copy of the input in fp32
        for role in ("student", "ema"):
            down, up = layer.lora_A[role].float(), layer.lora_B[role].float()
            for part in (down, up):
                part.__class__ = IN_INPUT_PRECISION.get(type(part), type(part))
            weight = torch.empty(down.weight.shape)
            bound = weight[0].numel() ** -0.5  # as PEFT: kaiming_uniform with a = sqrt(5)
            weight.uniform_(-bound, bound, generator=generator(seed, "lora_A", name))
            down.weight.data.copy_(weight)
            nn.init.zeros_(up.weight)


def _lora_weights(layers: Mapping[str, LoraLayer], role: str) -> dict[str, nn.Parameter]:
    """Return the weights of one adapter by the plain PEFT name of each, without the role."""
    return {
        f"{name}.{part}.weight": getattr(layer, part)[role].weight
        for name, layer in layers.items()
        for part in ("lora_A", "lora_B")
    }


def _within(
    context: Callable[[], AbstractContextManager[None]], denoise: Denoiser[Prediction]
) -> Denoiser[Prediction]:
    """Return the denoiser called inside a fresh context, without gradients."""

    def denoise_within(x_t: Latents, t: Timesteps, cond: Conditioning) -> Prediction:
        with context(), torch.no_grad():
            return denoise(x_t, t, cond)

    return denoise_within


def full_roles(family: ModelFamily) -> Roles:
    """Fine-tune a whole copy of the network in fp32; the family's own is the frozen teacher.

    In half precision the copies compute under autocast. They have the plain memory layout, which
    is that of the optimiser's state when it is read from a checkpoint.
    """
    student, ema = (
        deepcopy(family.network).float().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        for _ in range(2)
    )
    student.requires_grad_(True)
    return Roles(
        student=family.denoiser(student),
        teacher=family.denoiser(family.network),
        ema=family.denoiser(ema),
        trained=dict(student.named_parameters()),
        averaged=dict(ema.named_parameters()),
        network=student,
    )

"""One frozen base network in several roles: the active adapter decides which one it plays."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from fewstep.diffusion.prediction import Prediction
from fewstep.diffusion.random import generator
from fewstep.methods.base import no_fake
from fewstep.models.base import ModelError, ModelFamily
from fewstep.models.lora_layers import FAST_LAYERS, lora_product
from fewstep.models.quantised import shown_as_floats
from fewstep.types import Conditioning, Denoiser, Latents, Timesteps

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TRANSFORMER = (*ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
ALL = (*TRANSFORMER, "conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv",
       "time_emb_proj")  # fmt: skip
PRESETS = {"attention": ATTENTION, "transformer": TRANSFORMER, "all": ALL}
"""The modules of a UNet that a LoRA changes; `all` is the public LCM-LoRA scripts' list."""

A, B = ".lora_A.weight", ".lora_B.weight"
"""How PEFT's plain names of a LoRA's two factors end."""


@dataclass(frozen=True)
class Roles:
    """The denoisers of a training step, and the weights of `student` and of its average `ema`.

    `averaged` has the names of `trained`, and is it where no average is kept; `network` is the
    student's. Where there is a fake score, `fake` predicts with the weights `fake_trained`; a
    backward pass through it belongs inside `with fake_learns()`, where a recomputed (checkpointed)
    forward pass sees the fake's weights.
    """

    student: Denoiser[Prediction]
    teacher: Denoiser[Prediction]
    ema: Denoiser[Prediction]
    trained: Mapping[str, nn.Parameter]
    averaged: Mapping[str, Tensor]
    network: nn.Module
    fake: Denoiser[Prediction] = no_fake
    fake_trained: Mapping[str, nn.Parameter] = field(default_factory=dict)
    fake_learns: Callable[[], AbstractContextManager[None]] = nullcontext


def lora_roles(
    family: ModelFamily,
    preset: str,
    rank: int,
    alpha: float,
    *,
    dropout: float = 0.0,
    seed: int = 0,
    fake_rank: int | None = None,
    average: torch.dtype | None = torch.float32,
) -> Roles:
    """Put two LoRAs, "student" and "ema", on the family's network; its own weights stay frozen.

    Without `average` there is no "ema": its part is the student's. With `fake_rank` there is one
    more, "fake", with the student's scale and no dropout. The
    student's adapter is active except inside a call of another role, so that a recomputed
    (checkpointed) forward pass sees the weights that the first one saw.

    Raises:
        ModelError: if the family does not know the preset, or no module matches it.
    """
    network, presets = family.network, family.lora_presets
    if preset not in presets:
        raise ModelError(f"adapter.preset is {preset!r}; this model has: {', '.join(presets)}")
    ema = "ema" if average else "student"
    ranks = {"student": rank, ema: rank} | ({"fake": fake_rank} if fake_rank else {})
    check_rank(network, presets[preset], {"adapter.rank": rank, "fake.rank": fake_rank or 0})
    layers = _injected(network, list(presets[preset]), ranks, alpha / rank, dropout, preset)
    _initialise(layers, seed, average or torch.float32)

    active = ActiveAdapters(_made_fast(layers, [name for name in ranks if name != "ema"]))
    role = partial(active.role, family.denoiser(network))
    return Roles(
        student=role("student", learns=True),
        teacher=role(),
        ema=role(ema),
        trained=_lora_weights(layers, "student"),
        averaged=_lora_weights(layers, ema),
        network=network,
        fake=role("fake", learns=True) if fake_rank else no_fake,
        fake_trained=_lora_weights(layers, "fake") if fake_rank else {},
        fake_learns=lambda: active.set_to("fake"),
    )


@dataclass(frozen=True)
class ActiveAdapters:
    """The list of active adapters that all layers of a network share."""

    names: list[str]

    @contextmanager
    def set_to(self, *adapters: str) -> Iterator[None]:
        """Make other adapters the active ones within the block."""
        before, self.names[:] = [*self.names], adapters
        try:
            yield
        finally:
            self.names[:] = before

    def role(
        self, denoise: Denoiser[Prediction], *adapters: str, learns: bool = False
    ) -> Denoiser[Prediction]:
        """Return the denoiser with these adapters; only one that learns has gradients."""

        def denoise_as(x_t: Latents, t: Timesteps, cond: Conditioning) -> Prediction:
            has_gradient = learns and torch.is_grad_enabled()
            with self.set_to(*adapters), torch.set_grad_enabled(has_gradient):
                return denoise(x_t, t, cond)

        return denoise_as


def usable_ranks(network: nn.Module, targets: Sequence[str]) -> list[int]:
    """Return for each layer that a LoRA would change the rank above which it changes no more."""
    endings = tuple(f".{target}" for target in targets)
    layers = (layer for name, layer in network.named_modules() if f".{name}".endswith(endings))
    plain = (getattr(layer, "base_layer", layer) for layer in layers)
    return [min(sides) for sides in map(_sides, plain) if sides]


def _sides(layer: Any) -> tuple[int, int] | None:
    """Return the inputs and outputs of a linear layer, or of a convolution's whole kernel."""
    if hasattr(layer, "in_features"):
        return layer.in_features, layer.out_features
    if hasattr(layer, "in_channels") and hasattr(layer, "kernel_size"):
        return layer.in_channels * math.prod(layer.kernel_size), layer.out_channels
    return None


def check_rank(network: nn.Module, targets: Sequence[str], ranks: Mapping[str, int]) -> None:
    """Refuse a rank above what any layer can use; `ranks` are by the setting's name.

    Raises:
        ModelError: naming the setting and the highest rank that is of use.
    """
    highest = max(usable_ranks(network, targets), default=math.inf)
    for setting, rank in ranks.items():
        if rank > highest:
            raise ModelError(
                f"{setting} is {rank}, and no layer that it changes has more than {highest} inputs "
                f"or outputs: above that a LoRA only takes memory; use {highest} or less"
            )


def _injected(
    network: nn.Module,
    targets: list[str],
    ranks: Mapping[str, int],
    scale: float,
    dropout: float,
    preset: str,
) -> dict[str, LoraLayer]:
    """Put a LoRA of each name and rank on the network; return the layers that have them."""
    try:
        with warnings.catch_warnings(), shown_as_floats(network):
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            for name, rank in ranks.items():
                config = LoraConfig(
                    r=rank,
                    lora_alpha=scale * rank,  # type: ignore[arg-type]
                    lora_dropout=0.0 if name == "fake" else dropout,
                    target_modules=targets,
                )
                inject_adapter_in_model(config, network, adapter_name=name)
    except ValueError as error:
        raise ModelError(
            f"adapter.preset {preset!r} matches no module of this network ({error})"
        ) from error
    return {n: m for n, m in network.named_modules() if isinstance(m, LoraLayer)}


def _made_fast(layers: Mapping[str, LoraLayer], trained: list[str]) -> list[str]:
    """Give layers the fast forward pass and one list of active adapters, which is returned."""
    active = ["student"]
    for layer in layers.values():
        layer.__class__ = FAST_LAYERS.get(type(layer), type(layer))
        layer.set_adapter(trained)
        layer._active_adapter = active  # PEFT's own switch visits every layer
    return active


def _initialise(layers: Mapping[str, LoraLayer], seed: int, average: torch.dtype) -> None:
    """Draw every lora_A from (seed, module) and zero every lora_B, in fp32, "ema" in `average`.

    Student and average are equal.

    On a base in half precision the layers compute in it too. Autocast, which would do the same,
    also computes every norm in fp32 and keeps its input for the backward pass in twice the size.
    """
    for name, layer in layers.items():
        for adapter in layer.lora_A:
            device = layer.base_layer.weight.device  # PEFT leaves some out on the meta device
            dtype = average if adapter == "ema" else torch.float32
            down, up = (f[adapter].to(device, dtype) for f in (layer.lora_A, layer.lora_B))
            if device.type == "meta":  # a plan's network has shapes and no values
                continue
            weight = torch.empty(down.weight.shape)
            bound = weight[0].numel() ** -0.5  # as PEFT: kaiming_uniform with a = sqrt(5)
            key = ("fake", name) if adapter == "fake" else (name,)
            weight.uniform_(-bound, bound, generator=generator(seed, "lora_A", *key))
            down.weight.data.copy_(weight)
            nn.init.zeros_(up.weight)


def _lora_weights(layers: Mapping[str, LoraLayer], adapter: str) -> dict[str, nn.Parameter]:
    """Return the weights of one adapter by PEFT's plain names, without the adapter's."""
    return {
        f"{name}.{factor}.weight": getattr(layer, factor)[adapter].weight
        for name, layer in layers.items()
        for factor in ("lora_A", "lora_B")
    }


def full_roles(family: ModelFamily, *, averages: bool = True) -> Roles:
    """Fine-tune a whole copy of the network in fp32; the family's own is the frozen teacher.

    Its average is another copy, or, where it `averages` nothing, the same one.

    In half precision the copies compute under autocast. They have the plain memory layout, which
    is that of the optimiser's state when it is read from a checkpoint.
    """
    student, *copy = (
        deepcopy(family.network).float().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        for _ in range(1 + averages)
    )
    ema = copy[0] if averages else student
    student.requires_grad_(True)
    return Roles(
        student=family.denoiser(student),
        teacher=family.denoiser(family.network),
        ema=torch.no_grad()(family.denoiser(ema)),
        trained=dict(student.named_parameters()),
        averaged=dict(ema.named_parameters()),
        network=student,
    )


def lora_modules(weights: Mapping[str, Tensor]) -> list[str]:
    """Return the modules that a LoRA by PEFT's plain names changes.

    Raises:
        ModelError: if it is empty, or has a weight of another name or without its counterpart.
    """
    names = sorted({name.removesuffix(end) for name in weights for end in (A, B)
                    if name.endswith(end)})  # fmt: skip
    if odd := sorted(weights.keys() ^ {name + end for name in names for end in (A, B)}):
        problem = "is no part of a LoRA by PEFT's names" if odd[0] in weights else "is missing"
        raise ModelError(f"the weight {odd[0]} {problem}; the file was damaged or converted")
    if not names:
        raise ModelError("the LoRA changes nothing: it has no weights")
    return names


def folded(weights: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Multiply every lora_B by `scale` (alpha / rank), in fp32, so that no reader needs it."""
    return {
        name: (value.float() * scale if name.endswith(B) else value.float())
        .detach()
        .cpu()
        .contiguous()
        for name, value in weights.items()
    }


def merge_lora(network: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Add a LoRA, with its scale folded in, to the network's own weights, in place.

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
                f"the LoRA changes {name}, which this network does not have or has in another "
                "shape: it was trained on another base model"
            )
        weight.data += lora_product(up, down, weight).to(weight)
    return network

"""What one training step needs, counted on the meta device: bytes and floating point operations.

The step itself is run, by the method's own loss, without a single weight: operations on the meta
device know shapes and no values.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from fewstep.diffusion.guidance import guided
from fewstep.diffusion.random import Draw
from fewstep.diffusion.schedule import NoiseSchedule
from fewstep.methods.base import Batch, Denoisers
from fewstep.training.setup import Workshop


@dataclass(frozen=True)
class StepCost:
    """One optimiser step: FLOPs of all its micro-batches, and bytes by term.

    `moving` are activations and gradients together at their peak: without accumulation gradients
    come as activations go.
    """

    flops: int
    weights: int
    adapters: int
    optimizer: int
    gradients: int
    activations: int
    moving: int
    codec: int = 0

    @property
    def standing(self) -> int:
        """The bytes that are there between two steps as well."""
        return self.weights + self.adapters + self.optimizer + self.codec

    @property
    def bytes(self) -> int:
        """All bytes at the peak."""
        return self.standing + self.moving


class LiveBytes(TorchDispatchMode):
    """Follows the memory of every tensor that an operation makes until it is freed."""

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._follow(tensor.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


@contextmanager
def fused_attention() -> Iterator[None]:
    """Compute attention as devices do, without the matrix of scores that the meta device makes."""
    plain = functional.scaled_dot_product_attention

    def fused(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        kernel = torch.ops.aten._scaled_dot_product_efficient_attention
        return kernel(query, key, value, None, torch.is_grad_enabled())[0]

    functional.scaled_dot_product_attention = fused
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = plain


class Levels(NoiseSchedule):
    """A schedule on the meta device, which cannot be asked for the value of its last level."""

    @property
    def ends_in_pure_noise(self) -> bool:
        return False


def step_cost(shop: Workshop) -> StepCost:
    """Run one optimiser step of a workshop whose family is on the meta device."""
    family, roles, train = shop.family, shop.roles, shop.config.train
    method = shop.named_method[1]
    shape = family.latent_shape(shop.resolution)
    cond = {name: row.to("meta") for name, row in one_row(shop).items()}
    batch = Batch(
        torch.empty(train.batch_size, *shape, device="meta"),
        {name: row.expand(train.batch_size, *row.shape[1:]) for name, row in cond.items()},
    )
    schedule = Levels(**vars(family.schedule))
    target = roles.ema if train.target == "ema" else roles.student
    nets = Denoisers(roles.student, target, guided(roles.teacher, cond, shop.guidance_scale))

    standing = (*family.network.parameters(), *shop.network.parameters(), *roles.averaged.values())
    known = {id(weight): weight for weight in standing}.values()
    micro_batches = min(2, train.accumulate)  # from the second on, gradients are there already

    def backward(micro: int) -> None:
        samples = range(micro * train.batch_size, (micro + 1) * train.batch_size)
        draw = Draw.keyed(train.seed, samples, "meta")
        method.loss(nets, batch, schedule, draw).loss.mean().backward()

    with LiveBytes(known) as live, fused_attention():
        for micro in range(micro_batches):
            backward(micro)
    with FlopCounterMode(display=False) as flops, fused_attention():  # its hooks hold activations
        backward(0)

    trained, averaged = roles.trained.values(), roles.averaged.values()
    gradients, everything = total(trained), total(known)
    adapters = gradients + total(averaged)
    return StepCost(
        flops=flops.get_total_flops() * train.accumulate,
        weights=everything - adapters,
        adapters=adapters,
        gradients=gradients,
        optimizer=2 * gradients,
        activations=live.peak - (gradients if micro_batches > 1 else 0),
        moving=live.peak,
    )


def one_row(shop: Workshop) -> Mapping[str, Tensor]:
    """Return the conditioning of one prompt, without its values."""
    return shop.family.encode_prompts([""])


def decode_bytes(shop: Workshop) -> int:
    """Return what previews need besides the network: the codec, and the peak of one decoding."""
    family = shop.family
    parts = [weight for part in family.vae_and_text_encoder for weight in part.parameters()]
    latents = torch.empty(1, *family.latent_shape(shop.resolution), device="meta")
    with LiveBytes(parts) as live, fused_attention():
        family.decode(latents)
    return total(parts) + live.peak


def total(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)

"""The FLOPs and bytes of one training step, counted by running it on the meta device.

The method's own loss runs there, without a single weight: operations know shapes and no values.
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

from fewstep.diffusion.random import Draw
from fewstep.diffusion.schedule import NoiseSchedule
from fewstep.methods import Batch, LearnsFake
from fewstep.models.prompts import planned_prompt
from fewstep.training.adamw8bit import state_bytes
from fewstep.training.loop import Loss
from fewstep.training.networks import Networks


@dataclass(frozen=True)
class StepCost:
    """One optimiser step: FLOPs of all its micro-batches, and bytes by what they hold.

    `moving` is the peak of activations and gradients together: without accumulation gradients
    grow as activations are freed.
    """

    flops: int
    weights: int
    adapters: int
    optimizer: int
    gradients: int
    activations: int
    moving: int
    vae_and_text_encoder: int = 0

    @property
    def standing(self) -> int:
        """The bytes that stay between two steps."""
        return self.weights + self.adapters + self.optimizer + self.vae_and_text_encoder

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
        if key not in self.known:
            self.known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


@contextmanager
def fused_attention() -> Iterator[None]:
    """Compute attention as GPUs do, without the matrix of scores that the meta device makes."""
    plain = functional.scaled_dot_product_attention

    def fused(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        kernel = torch.ops.aten._scaled_dot_product_efficient_attention
        return kernel(query, key, value, None, torch.is_grad_enabled())[0]

    functional.scaled_dot_product_attention = fused
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = plain


class MetaSchedule(NoiseSchedule):
    """A schedule on the meta device, where the value of its last level cannot be read."""

    @property
    def ends_in_pure_noise(self) -> bool:
        """False, as the operations of a step do not depend on it."""
        return False


def step_cost(networks: Networks) -> StepCost:
    """Run one optimiser step of networks that are on the meta device."""
    family, roles, train = networks.family, networks.roles, networks.config.train
    uncond, text = (family.encode_prompts([p]) for p in ("", planned_prompt(family)))
    nets, schedule = networks.denoisers(uncond), MetaSchedule(**vars(family.schedule))
    shape, size = family.latent_shape(networks.resolution), train.batch_size
    cond = {name: row.to("meta").expand(size, *row.shape[1:]) for name, row in text.items()}
    batch = Batch(torch.empty(size, *shape, device="meta"), cond)
    network = networks.network_for_training()
    weights = (w for each in (family.network, network)
               for w in (*each.parameters(), *each.buffers()))  # fmt: skip
    known = {id(weight): weight for weight in (*weights, *roles.averaged.values())}.values()
    micro_batches = min(2, train.accumulate)  # from the second on, gradients are there already

    def backward(micro: int, loss: Loss = networks.method.loss) -> None:
        samples = range(micro * size, (micro + 1) * size)
        draw = Draw.keyed(train.seed, samples, "meta")
        loss(nets, batch, schedule, draw).loss.mean().backward()

    def update_fake() -> None:
        if isinstance(networks.method, LearnsFake):
            with roles.fake_learns():
                backward(0, networks.method.fake_loss)
            for weight in roles.fake_trained.values():
                weight.grad = None

    with LiveBytes(known) as live, fused_attention():
        update_fake()
        for micro in range(micro_batches):
            backward(micro)
    with FlopCounterMode(display=False) as flops, fused_attention():  # its hooks hold activations
        backward(0)
        for _ in range(networks.config.fake.updates if networks.config.fake else 0):
            update_fake()

    gradients = num_bytes(roles.trained.values())
    held = (*roles.trained.values(), *roles.averaged.values(), *roles.fake_trained.values())
    adapters = num_bytes({id(weight): weight for weight in held}.values())
    learns = (*roles.trained.values(), *roles.fake_trained.values())
    return StepCost(
        flops=flops.get_total_flops() * train.accumulate,
        weights=num_bytes(known) - adapters,
        adapters=adapters,
        gradients=gradients,
        optimizer=state_bytes(learns) if train.optimizer == "adamw8bit" else 2 * num_bytes(learns),
        activations=live.peak - (gradients if micro_batches > 1 else 0),
        moving=live.peak,
    )


def decode_bytes(networks: Networks) -> int:
    """Return what previews need besides the network: VAE and text encoder, and one decoding."""
    family = networks.family
    parts = [weight for part in family.vae_and_text_encoder for weight in part.parameters()]
    latents = torch.empty(1, *family.latent_shape(networks.resolution), device="meta")
    with LiveBytes(parts) as live, fused_attention():
        family.decode(latents)
    return num_bytes(parts) + live.peak


def num_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes that tensors take."""
    return sum(tensor.nbytes for tensor in tensors)

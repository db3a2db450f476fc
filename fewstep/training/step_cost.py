"""What one training step costs, counted by running it on the meta device.

The method's own loss runs there, without a single weight: operations know shapes and no values.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fewstep.data.encode import PROMPTS_AT_ONCE
from fewstep.diffusion.random import Draw
from fewstep.diffusion.schedule import NoiseSchedule
from fewstep.errors import SettingError
from fewstep.methods import Batch, LearnsFake
from fewstep.models.counting import OperationCounter, fused_attention, num_bytes
from fewstep.models.prompts import planned_prompt
from fewstep.training.adamw8bit import state_bytes
from fewstep.training.loop import Loss
from fewstep.training.networks import Networks
from fewstep.types import Conditioning, Latents, PerSample


@dataclass(frozen=True)
class StepCost:
    """One optimiser step: FLOPs of all its micro-batches, and bytes by what they hold.

    `moving` is the peak of activations and gradients together: without accumulation gradients
    grow as activations are freed. `kernels` are the operations that make a tensor. `warmup_flops`
    are those of a fake score's updates before the first step.
    """

    flops: int
    kernels: int
    warmup_flops: int
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


class MetaSchedule(NoiseSchedule):
    """A schedule on the meta device, where the value of its last level cannot be read."""

    @property
    def ends_in_pure_noise(self) -> bool:
        """False, as the operations of a step do not depend on it."""
        return False


@dataclass(frozen=True)
class MetaDraw(Draw):
    """Randomness of `size` samples that has a shape alone."""

    size: int = 1

    def noise_like(self, x: Latents) -> Latents:
        """Return a tensor of the shape of `x`."""
        return torch.empty_like(x)

    def uniform(self) -> PerSample:
        """Return a tensor of one number a sample."""
        return torch.empty(self.size, device=self.device)


def step_cost(networks: Networks) -> StepCost:
    """Run one optimiser step of networks that are on the meta device.

    Raises:
        SettingError: if its tensors are too large even to be counted.
    """
    roles, train, fake = networks.roles, networks.config.train, networks.config.fake
    network = networks.network_for_training()
    weights = (*_weights(networks.family.network), *_weights(network), *roles.averaged.values())
    counter = OperationCounter(_each_once(weights))
    try:
        warm_up, update, update_fake = _updates(networks)
        with counter, fused_attention():
            warmup_flops, _ = _counted(counter, warm_up, roles.fake_trained, train.accumulate)
            flops, kernels = _counted(counter, update, roles.trained, train.accumulate)
            fake_flops, fake_kernels = _counted(
                counter, update_fake, roles.fake_trained, train.accumulate
            )
    except RuntimeError as error:
        raise _too_large(networks, error) from error
    gradients = num_bytes(roles.trained.values())
    learns = (*roles.trained.values(), *roles.fake_trained.values())
    return StepCost(
        flops=flops + fake_flops * (fake.updates if fake else 0),
        kernels=kernels + fake_kernels * (fake.updates if fake else 0),
        warmup_flops=warmup_flops * (fake.warmup if fake else 0),
        weights=base_bytes(networks),
        adapters=num_bytes(_each_once((*learns, *roles.averaged.values()))),
        gradients=gradients,
        optimizer=state_bytes(learns) if train.optimizer == "adamw8bit" else 2 * num_bytes(learns),
        activations=counter.peak - (gradients if train.accumulate > 1 else 0),
        moving=counter.peak,
    )


def _counted(
    counter: OperationCounter,
    learn: Callable[[], None],
    trained: Mapping[str, nn.Parameter],
    accumulate: int,
) -> tuple[int, int]:
    """Return the FLOPs and kernels of `accumulate` micro-batches, of which one or two are run."""
    flops, kernels = counter.flops, counter.kernels
    micro_batches = min(2, accumulate)  # from the second on, gradients are there already
    for _ in range(micro_batches):
        learn()
    for weight in trained.values():
        weight.grad = None
    flops, kernels = counter.flops - flops, counter.kernels - kernels
    return accumulate * flops // micro_batches, accumulate * kernels // micro_batches


def _each_once(weights: Iterable[Tensor]) -> Collection[Tensor]:
    """Return the weights without those that have been there before."""
    return {id(weight): weight for weight in weights}.values()


def _updates(networks: Networks) -> tuple[Callable[[], None], ...]:
    """Return one micro-batch of the fake's warm-up, the student's update, and the fake's after it.

    Without a fake score the first and the last do nothing.
    """
    family, method, size = networks.family, networks.method, networks.config.train.batch_size
    uncond, text = (family.encode_prompts([p]) for p in ("", planned_prompt(family)))
    nets, schedule = networks.denoisers(uncond), MetaSchedule(**vars(family.schedule))
    shape = family.latent_shape(networks.resolution)

    batch = Batch(torch.empty(size, *shape, device="meta"), _rows(text, size))

    def backward(loss: Loss, batch: Batch) -> Batch:
        output = loss(nets, batch, schedule, MetaDraw((), "meta", size=size))
        output.loss.mean().backward()
        return replace(batch, generated=output.generated)

    def update() -> None:
        nonlocal made
        made = backward(method.loss, batch)

    def update_fake(batch: Batch) -> None:
        if isinstance(method, LearnsFake):
            with networks.roles.fake_learns():
                backward(method.fake_loss, batch)

    made = batch
    return lambda: update_fake(batch), update, lambda: update_fake(made)


def _too_large(networks: Networks, error: RuntimeError) -> SettingError:
    train = networks.config.train
    return SettingError(
        f"a step with train.batch_size = {train.batch_size} and data.resolution = "
        f"{networks.resolution} is too large to be counted ({' '.join(str(error).split())[:100]}); "
        "lower them"
    )


def _rows(cond: Conditioning, count: int) -> Conditioning:
    """Return the conditioning of so many prompts, on the meta device."""
    return {name: row.to("meta").expand(count, *row.shape[1:]) for name, row in cond.items()}


def base_bytes(networks: Networks) -> int:
    """Return the bytes of the network that is adapted or copied, and stays frozen."""
    own = {
        id(weight)
        for role in (networks.roles.trained, networks.roles.averaged, networks.roles.fake_trained)
        for weight in role.values()
    }
    return num_bytes(w for w in _weights(networks.family.network) if id(w) not in own)


def parts_bytes(networks: Networks) -> int:
    """Return the bytes of the VAE's and the text encoder's weights."""
    parts = networks.family.vae_and_text_encoder
    return num_bytes(weight for part in parts for weight in part.parameters())


def decode_bytes(networks: Networks, count: int) -> int:
    """Return what decoding `count` images takes besides the weights."""
    shape = networks.family.latent_shape(networks.resolution)
    with _beside(networks) as counter, fused_attention():
        networks.family.decode(torch.empty(count, *shape, device="meta"))
    return counter.peak


def encode_bytes(networks: Networks, images: bool = True) -> int:
    """Return what encoding takes besides the weights: an image, or as many prompts as at once."""
    side, family = networks.resolution, networks.family
    with _beside(networks) as prompts, fused_attention():
        family.encode_prompts([planned_prompt(family)] * PROMPTS_AT_ONCE)
    if not images:
        return prompts.peak
    with _beside(networks) as one_image, fused_attention():
        family.encode_images(torch.empty(1, 3, side, side, device="meta"))
    return max(one_image.peak, prompts.peak)


def generate_bytes(networks: Networks, count: int) -> int:
    """Return what a step of the guided teacher takes besides the weights, for `count` images."""
    family = networks.family
    uncond = family.encode_prompts([""])
    x_t = torch.empty(count, *family.latent_shape(networks.resolution), device="meta")
    t = torch.zeros(count, dtype=torch.int64, device="meta")
    with _beside(networks) as counter, fused_attention(), torch.no_grad():
        networks.denoisers(uncond).teacher(x_t, t, _rows(uncond, count))
    return counter.peak


def _beside(networks: Networks) -> OperationCounter:
    """Return a counter to which all weights are known."""
    family = networks.family
    parts = (family.network, *family.vae_and_text_encoder)
    return OperationCounter([weight for part in parts for weight in _weights(part)])


def _weights(network: nn.Module) -> list[Tensor]:
    """Return the parameters, and the buffers that quantised weights are."""
    return [*network.parameters(), *network.buffers()]

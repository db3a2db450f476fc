"""The training loop, as a generator: between two steps the caller logs, saves and draws."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from fewstep.config import TrainSettings
from fewstep.diffusion.random import Draw, generator
from fewstep.diffusion.schedule import NoiseSchedule
from fewstep.distributed import ALONE, Processes
from fewstep.methods.base import Batch, Denoisers, LossOutput, Method
from fewstep.training.divergence import Watch, diverged

BatchAt = Callable[[Sequence[int]], Batch]


@dataclass(frozen=True)
class StepResult:
    """One optimiser step: its number from 1 on, mean loss, and mean loss by quarter of noise.

    `grad_norm` is that before clipping. Where it is None the gradient overflowed fp16, and the step
    was left out; `loss_scale` is then lowered. Without loss scaling it is None.
    """

    step: int
    loss: float
    loss_by_noise: tuple[float | None, ...]
    grad_norm: float | None
    learning_rate: float
    loss_scale: float | None = None


@dataclass(frozen=True)
class Weights:
    """The weights that the optimiser moves, and their moving average under the same names."""

    trained: Mapping[str, nn.Parameter]
    averaged: Mapping[str, Tensor]


def train(
    method: Method,
    nets: Denoisers,
    weights: Weights,
    schedule: NoiseSchedule,
    optimizer: torch.optim.Optimizer,
    batch_at: BatchAt,
    settings: TrainSettings,
    first_step: int = 0,
    scaler: GradScaler | None = None,
    processes: Processes = ALONE,
    watch: Watch | None = None,
) -> Iterator[StepResult]:
    """Take the optimiser steps from `first_step` on, and yield after each.

    Data, noise and timesteps are functions of (seed, number of the sample in the run), and the
    learning rate and the curriculum of the step, so that weights, optimiser, `scaler`, `watch`
    and `first_step` are the whole state. Several `processes` take a batch each of every step.

    Raises:
        TrainingDivergedError: if the loss or the gradient is not finite, or the loss explodes; no
            weight was changed yet.
    """
    scaler = scaler or GradScaler(enabled=False)
    device, watch = schedule.alphas.device, watch or Watch()
    for step in range(first_step, settings.steps):
        outputs = []
        for samples in micro_batches(step, settings, processes):
            draw = Draw.keyed(settings.seed, samples, device, progress=step / settings.steps)
            batch = batch_at(samples)
            with seeded_dropout(settings.seed, samples[0], device):
                output = method.loss(nets, batch, schedule, draw)
                scaler.scale(output.loss.mean() / settings.accumulate).backward()
            outputs.append(LossOutput(output.loss.detach(), output.t))

        processes.average_gradients(weights.trained.values())
        scaler.unscale_(optimizer)
        losses = processes.gather(torch.cat([output.loss for output in outputs]))
        t = processes.gather(torch.cat([output.t for output in outputs]))
        gradients = [weight.grad for weight in weights.trained.values() if weight.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        losses, t, norm = to_host(losses, t, norm)  # the one time that the host waits
        by_noise = by_quarter(losses, t, schedule)
        watch.check_loss(step, losses.mean().item(), by_noise)
        grad_norm = None if scaler.is_enabled() and not norm.isfinite() else norm.item()
        if grad_norm is not None:  # else the scaler leaves this step out
            watch.check_gradient(step, grad_norm, weights.trained)
            clip(gradients, grad_norm, settings.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        update_average(weights, min(settings.ema, (1 + step) / (10 + step)))

        yield StepResult(
            step=step + 1,
            loss=losses.mean().item(),
            loss_by_noise=by_noise,
            grad_norm=grad_norm,
            learning_rate=learning_rate(step, settings),
            loss_scale=checked_scale(step, scaler),
        )


def to_host(*tensors: Tensor) -> list[Tensor]:
    """Return the tensors on the host, all in one transfer and in the first one's dtype."""
    whole = torch.cat([tensor.reshape(-1).to(tensors[0]) for tensor in tensors]).cpu()
    parts = whole.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def clip(gradients: list[Tensor], norm: float, most: float) -> None:
    """Scale gradients of this norm down to `most`, where it is above."""
    if norm > most:
        torch._foreach_mul_(gradients, most / norm)


def checked_scale(step: int, scaler: GradScaler) -> float | None:
    """Return the loss's scale; below 1 it is not the scale that makes the gradient overflow."""
    if not scaler.is_enabled():
        return None
    scale = scaler.get_scale()
    if scale < 1:
        raise diverged(step, "the gradient overflows fp16 at every scale of the loss")
    return scale


@contextmanager
def seeded_dropout(seed: int, sample: int, device: torch.device) -> Iterator[None]:
    """Key the global random state, which dropout inside a network uses, and give it back after."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(generator(seed, "dropout", sample).initial_seed())
        yield


def micro_batches(
    step: int,
    settings: TrainSettings,
    processes: Processes = ALONE,
) -> Iterator[range]:
    """Yield the numbers, in the whole run, of the samples of each micro-batch of a step.

    That of all processes together is as large as one process's would be with `count` times the
    batch.
    """
    for micro in range(settings.accumulate):
        batch = (step * settings.accumulate + micro) * processes.count + processes.rank
        yield range(batch * settings.batch_size, (batch + 1) * settings.batch_size)


@dataclass(frozen=True)
class Requests:
    """The samples of every micro-batch from a step on; it can be gone through again."""

    settings: TrainSettings
    first_step: int = 0
    processes: Processes = ALONE

    def __iter__(self) -> Iterator[range]:
        for step in range(self.first_step, self.settings.steps):
            yield from micro_batches(step, self.settings, self.processes)


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Rise linearly over the warm-up, then stay or fall to zero along a half cosine."""
    rise = min(1.0, (step + 1) / (settings.warmup + 1))
    if settings.decay == "constant":
        return settings.learning_rate * rise
    progress = max(0, step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.learning_rate * rise * (1 + math.cos(math.pi * progress)) / 2


@torch.no_grad()
def update_average(weights: Weights, decay: float) -> None:
    """Move every average a share 1 - `decay` of the way to its weight."""
    averages = [*weights.averaged.values()]
    trained = [weights.trained[name].to(weights.averaged[name].dtype) for name in weights.averaged]
    torch._foreach_lerp_(averages, trained, 1 - decay)


def by_quarter(losses: Tensor, t: Tensor, schedule: NoiseSchedule) -> tuple[float | None, ...]:
    """Return the mean loss in each quarter of the timesteps, cleanest first; None where empty."""
    quarter = (t * 4).div(schedule.num_train_timesteps, rounding_mode="floor")
    parts = [losses[quarter == q] for q in range(4)]
    return tuple(part.mean().item() if len(part) else None for part in parts)

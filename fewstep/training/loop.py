"""The training loop, a generator: its caller logs, saves and previews between two steps."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from fewstep.config import TrainSettings
from fewstep.diffusion.random import Draw, generator
from fewstep.diffusion.schedule import NoiseSchedule
from fewstep.distributed import ALONE, Processes
from fewstep.methods.base import Batch, Denoisers, LossOutput, Method
from fewstep.training.checkpoint import TrainState
from fewstep.training.divergence import diverged

BatchAt = Callable[[Sequence[int]], Batch]
"""Returns the batch of the samples with these numbers in the run."""


@dataclass(frozen=True)
class StepResult:
    """One optimiser step: its number from 1 on, mean loss, and mean loss by quarter of noise.

    `grad_norm` is that before clipping. It is None where the gradient overflowed fp16 and the step
    was skipped; `loss_scale` is then lowered. Without loss scaling `loss_scale` is None.
    """

    step: int
    loss: float
    loss_by_noise: tuple[float | None, ...]
    grad_norm: float | None
    learning_rate: float
    loss_scale: float | None = None


def train(
    state: TrainState,
    method: Method,
    nets: Denoisers,
    schedule: NoiseSchedule,
    batch_at: BatchAt,
    *,
    settings: TrainSettings,
    processes: Processes = ALONE,
) -> Iterator[StepResult]:
    """Take the optimiser steps after `state.step`, and yield after each.

    Data, noise and timesteps are functions of (seed, number of the sample in the run), learning
    rate and curriculum of the step: `state` is all that a checkpoint needs. Of several `processes`
    each takes its own batch of every step.

    Raises:
        TrainingDivergedError: if the loss or the gradient is not finite, or the loss explodes; the
            weights are still those of the step before.
    """
    device = schedule.alphas.device
    for step in range(state.step, settings.steps):
        outputs = []
        for samples in micro_batches(step, settings, processes):
            draw = Draw.keyed(settings.seed, samples, device, progress=step / settings.steps)
            batch = batch_at(samples)
            with seeded_dropout(settings.seed, samples[0], device):
                output = method.loss(nets, batch, schedule, draw)
                state.scaler.scale(output.loss.mean() / settings.accumulate).backward()
            outputs.append(LossOutput(output.loss.detach(), output.t))
        yield take_step(state, outputs, schedule, settings, processes)


def take_step(
    state: TrainState,
    outputs: Sequence[LossOutput],
    schedule: NoiseSchedule,
    settings: TrainSettings,
    processes: Processes = ALONE,
) -> StepResult:
    """Take one optimiser step with the gradients that are there, and move the average."""
    step, scaler = state.step, state.scaler
    processes.average_gradients(state.trained.values())
    scaler.unscale_(state.optimizer)
    losses = processes.gather(torch.cat([output.loss for output in outputs]))
    t = processes.gather(torch.cat([output.t for output in outputs]))
    gradients = [weight.grad for weight in state.trained.values() if weight.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    losses, t, norm = to_host(losses, t, norm)  # the one time that the host waits
    by_noise = by_quarter(losses, t, schedule)
    state.monitor.check_loss(step, losses.mean().item(), by_noise)
    grad_norm = None if scaler.is_enabled() and not norm.isfinite() else norm.item()
    if grad_norm is not None:  # else the scaler skips this step
        state.monitor.check_gradient(step, grad_norm, state.trained)
        if grad_norm > settings.max_grad_norm:
            torch._foreach_mul_(gradients, settings.max_grad_norm / grad_norm)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(step, settings)
    scaler.step(state.optimizer)
    scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    update_average(state, min(settings.ema, (1 + step) / (10 + step)))
    state.step = step + 1
    return StepResult(
        step=state.step,
        loss=losses.mean().item(),
        loss_by_noise=by_noise,
        grad_norm=grad_norm,
        learning_rate=learning_rate(step, settings),
        loss_scale=checked_scale(step, scaler),
    )


def to_host(*tensors: Tensor) -> list[Tensor]:
    """Return the tensors on the host, all in one transfer and in the first one's dtype."""
    flat = torch.cat([tensor.reshape(-1).to(tensors[0]) for tensor in tensors]).cpu()
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def checked_scale(step: int, scaler: GradScaler) -> float | None:
    """Return the loss scale; where it is below 1, the overflow is not the scale's fault."""
    if not scaler.is_enabled():
        return None
    scale = scaler.get_scale()
    if scale < 1:
        raise diverged(step, "the gradient overflows fp16 at every scale of the loss")
    return scale


@contextmanager
def seeded_dropout(seed: int, sample: int, device: torch.device) -> Iterator[None]:
    """Seed the global random state, which dropout uses, within the block, and restore it after."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(generator(seed, "dropout", sample).initial_seed())
        yield


def micro_batches(
    step: int, settings: TrainSettings, processes: Processes = ALONE
) -> Iterator[range]:
    """Yield the sample numbers of this process's micro-batches of a step.

    Those of all processes together are one process's with `count` times the batch size.
    """
    for micro in range(settings.accumulate):
        batch = (step * settings.accumulate + micro) * processes.count + processes.rank
        yield range(batch * settings.batch_size, (batch + 1) * settings.batch_size)


@dataclass(frozen=True)
class Requests:
    """The sample numbers of every micro-batch from a step on; can be iterated repeatedly."""

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
def update_average(state: TrainState, decay: float) -> None:
    """Move every average the fraction 1 - `decay` of the way to its weight."""
    averages = [*state.averaged.values()]
    trained = [state.trained[name].to(state.averaged[name].dtype) for name in state.averaged]
    torch._foreach_lerp_(averages, trained, 1 - decay)


def by_quarter(losses: Tensor, t: Tensor, schedule: NoiseSchedule) -> tuple[float | None, ...]:
    """Return the mean loss in each quarter of the timesteps, cleanest first; None where empty."""
    quarter = (t * 4).div(schedule.num_train_timesteps, rounding_mode="floor")
    parts = [losses[quarter == q] for q in range(4)]
    return tuple(part.mean().item() if len(part) else None for part in parts)

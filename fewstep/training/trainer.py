"""The training loop, as a generator: between two steps the caller logs, saves and draws."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewstep.config import TrainSettings
from fewstep.diffusion.random import Draw, generator
from fewstep.diffusion.schedule import NoiseSchedule
from fewstep.errors import UserError
from fewstep.methods.base import Batch, Denoisers, LossOutput, Method

BatchAt = Callable[[Sequence[int]], Batch]


class TrainingDivergedError(UserError):
    """The loss or its gradient is no longer finite; the message says where and what next."""


@dataclass(frozen=True)
class StepResult:
    """One optimiser step: its number from 1 on, mean loss, and mean loss by quarter of noise."""

    step: int
    loss: float
    loss_by_noise: tuple[float | None, ...]
    grad_norm: float
    learning_rate: float


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
) -> Iterator[StepResult]:
    """Take the optimiser steps from `first_step` on, and yield after each.

    Data, noise and timesteps are functions of (seed, number of the sample in the run), and the
    learning rate and the curriculum of the step, so that weights, optimiser and `first_step` are
    the whole state.

    Raises:
        TrainingDivergedError: if the loss or the gradient is not finite; no weight was changed yet.
    """
    device = schedule.alphas.device
    parameters = list(weights.trained.values())
    for step in range(first_step, settings.steps):
        outputs = []
        for samples in micro_batches(step, settings):
            draw = Draw.keyed(settings.seed, samples, device, progress=step / settings.steps)
            batch = batch_at(samples)
            with seeded_dropout(settings.seed, samples[0], device):
                output = method.loss(nets, batch, schedule, draw)
                (output.loss.mean() / settings.accumulate).backward()
            outputs.append(LossOutput(output.loss.detach(), output.t))

        grad_norm = nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        losses = torch.cat([output.loss for output in outputs])
        _check_finite(step, losses.mean().item(), grad_norm.item())
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        update_average(weights, min(settings.ema, (1 + step) / (10 + step)))

        yield StepResult(
            step=step + 1,
            loss=losses.mean().item(),
            loss_by_noise=by_quarter(losses, torch.cat([output.t for output in outputs]), schedule),
            grad_norm=grad_norm.item(),
            learning_rate=learning_rate(step, settings),
        )


@contextmanager
def seeded_dropout(seed: int, sample: int, device: torch.device) -> Iterator[None]:
    """Key the global random state, which dropout inside a network uses, and give it back after."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(generator(seed, "dropout", sample).initial_seed())
        yield


def micro_batches(step: int, settings: TrainSettings) -> Iterator[range]:
    """Yield the numbers, in the whole run, of the samples of each micro-batch of a step."""
    first = step * settings.accumulate * settings.batch_size
    for micro in range(settings.accumulate):
        start = first + micro * settings.batch_size
        yield range(start, start + settings.batch_size)


@dataclass(frozen=True)
class Requests:
    """The samples of every micro-batch from a step on; it can be gone through again."""

    settings: TrainSettings
    first_step: int = 0

    def __iter__(self) -> Iterator[range]:
        for step in range(self.first_step, self.settings.steps):
            yield from micro_batches(step, self.settings)


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
    for name, average in weights.averaged.items():
        average.lerp_(weights.trained[name].to(average.dtype), 1 - decay)


def by_quarter(losses: Tensor, t: Tensor, schedule: NoiseSchedule) -> tuple[float | None, ...]:
    """Return the mean loss in each quarter of the timesteps, cleanest first; None where empty."""
    quarter = (t * 4).div(schedule.num_train_timesteps, rounding_mode="floor")
    means = [losses[quarter == q].mean().item() for q in range(4)]
    return tuple(None if math.isnan(mean) else mean for mean in means)


def _check_finite(step: int, loss: float, grad_norm: float) -> None:
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    what = (
        f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {grad_norm}"
    )
    raise TrainingDivergedError(
        f"training diverged at step {step + 1}: {what}; the checkpoints before it are whole. Lower "
        "train.learning_rate or train.max_grad_norm, or check the data for broken pictures"
    )

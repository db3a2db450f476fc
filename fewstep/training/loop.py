"""The training loop, a generator: its caller logs, saves and previews between two steps."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from fewstep.config import TrainSettings
from fewstep.diffusion.random import Draw, generator
from fewstep.diffusion.schedule import NoiseSchedule
from fewstep.distributed import ALONE, Processes
from fewstep.methods.base import Batch, Denoisers, LearnsFake, LossOutput, Method
from fewstep.training.average import update_average
from fewstep.training.checkpoint import TrainState
from fewstep.training.divergence import diverged, of_samples

BatchAt = Callable[[Sequence[int]], Batch]
"""Returns the batch of the samples with these numbers in the run."""

Batches = Iterable[tuple[range, Batch]]
"""The micro-batches of a step with their sample numbers."""

Loss = Callable[[Denoisers, Batch, NoiseSchedule, Draw], LossOutput]
"""The `loss` of a method, or its `fake_loss`."""


@dataclass(frozen=True)
class StepResult:
    """One optimiser step: its number from 1 on, mean loss, and mean loss by quarter of noise.

    `grad_norm` is that before clipping. It is None where the gradient overflowed fp16 and the step
    was skipped; `loss_scale` is then lowered. Without loss scaling `loss_scale` is None. `fake` are
    the numbers of a fake score, by their names in metrics.jsonl.
    """

    step: int
    loss: float
    loss_by_noise: tuple[float | None, ...]
    grad_norm: float | None
    learning_rate: float
    loss_scale: float | None = None
    fake: Mapping[str, Any] = field(default_factory=dict)


def train(
    state: TrainState,
    method: Method,
    nets: Denoisers,
    schedule: NoiseSchedule,
    batch_at: BatchAt,
    *,
    settings: TrainSettings,
    processes: Processes = ALONE,
    fake: "FakeTraining | None" = None,
) -> Iterator[StepResult]:
    """Take the optimiser steps after `state.step`, and yield after each.

    A `fake` score is updated after each of them, on what the student generated in it. Data,
    noise and timesteps are functions of (seed, number of the sample in the run), learning rate and
    curriculum of the step: `state` is all that a checkpoint needs. Of several `processes` each
    takes its own batch of every step.

    Raises:
        TrainingDivergedError: if the loss or the gradient is not finite, or the loss explodes; the
            weights are still those of the step before.
    """

    def batches(step: int) -> Batches:
        return ((part, batch_at(part)) for part in micro_batches(step, settings, processes))

    if fake is not None and state.step == 0:
        for number in range(settings.steps, settings.steps + fake.warmup):  # which no step takes
            with of_samples(gathered_samples(number, settings, processes)):
                fake.update(nets, batches(number), schedule, processes)
    for step in range(state.step, settings.steps):
        samples, progress = batches(step), step / settings.steps
        with of_samples(gathered_samples(step, settings, processes)):
            if fake is not None:
                samples = list(samples)
            outputs = learn(state, method.loss, nets, samples, schedule, settings, progress)
            result = take_step(state, outputs, schedule, settings, processes)
            if fake is not None:
                gap, made = mean_gap(outputs, processes), generated(samples, outputs)
                *_, numbers = (
                    fake.update(nets, made, schedule, processes, i) for i in range(fake.updates)
                )
                result = replace(result, fake=numbers | {"teacher_fake_gap": gap})
        yield result


def learn(
    state: TrainState,
    loss: Loss,
    nets: Denoisers,
    batches: Batches,
    schedule: NoiseSchedule,
    settings: TrainSettings,
    progress: float = 0.0,
    purpose: str = "train",
) -> list[LossOutput]:
    """Leave in the weights the mean gradient of one step's micro-batches."""
    outputs, device = [], schedule.alphas.device
    for samples, batch in batches:
        draw = Draw.keyed(settings.seed, samples, device, progress, purpose=purpose)
        with seeded_dropout(settings.seed, samples[0], device):
            output = loss(nets, batch, schedule, draw)
            state.scaler.scale(output.loss.mean() / settings.accumulate).backward()
        outputs.append(replace(output, loss=output.loss.detach()))
    return outputs


@dataclass(frozen=True)
class FakeTraining:
    """Trains the fake score: `updates` times after each step, `warmup` times before the first.

    `learns` gives the block in which a backward pass through it runs. Its randomness is a function
    of (seed, sample, number of the update in its step) and it has an optimiser of its own.
    """

    method: LearnsFake
    state: TrainState
    settings: TrainSettings
    updates: int
    warmup: int
    learns: Callable[[], AbstractContextManager[None]]

    def update(
        self,
        nets: Denoisers,
        batches: Batches,
        schedule: NoiseSchedule,
        processes: Processes,
        number: int = 0,
    ) -> dict[str, Any]:
        """Take one of its optimiser steps; return its numbers for metrics.jsonl."""
        loss, settings = self.method.fake_loss, self.settings
        with self.learns():
            outputs = learn(
                self.state, loss, nets, batches, schedule, settings, purpose=f"fake {number}"
            )
        result = take_step(self.state, outputs, schedule, settings, processes)
        losses = processes.gather(torch.cat([output.loss for output in outputs]))
        segment = torch.cat([output.segment for output in outputs if output.segment is not None])
        by_segment = by_part(losses.cpu(), processes.gather(segment).cpu())
        return {
            "fake_loss": result.loss,
            "fake_loss_by_segment": by_segment,
            "fake_grad_norm": result.grad_norm,
        }


def generated(batches: Batches, outputs: Sequence[LossOutput]) -> Batches:
    """Return a step's micro-batches with what the student generated in its own update."""
    pairs = zip(batches, outputs, strict=True)
    return [(part, replace(batch, generated=out.generated)) for (part, batch), out in pairs]


def mean_gap(outputs: Sequence[LossOutput], processes: Processes) -> float | None:
    """Return the mean distance of teacher and fake, where the method measures it."""
    gaps = [output.gap for output in outputs if output.gap is not None]
    return processes.gather(torch.cat(gaps)).mean().item() if gaps else None


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
    state.monitor.check_loss(step, losses, by_noise)
    grad_norm = None if scaler.is_enabled() and not norm.isfinite() else norm.item()
    if grad_norm is not None:  # else the scaler skips this step
        state.monitor.check_gradient(step, grad_norm, state.trained, losses)
        if grad_norm > settings.max_grad_norm:
            torch._foreach_mul_(gradients, settings.max_grad_norm / grad_norm)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(step, settings)
    scaler.step(state.optimizer)
    scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    if state.averaged:
        decay = min(settings.ema, (1 + step) / (10 + step))
        update_average(state.averaged, state.trained, decay, (settings.seed, step))
    state.step = step + 1
    return StepResult(
        step=state.step,
        loss=losses.mean().item(),
        loss_by_noise=by_noise,
        grad_norm=grad_norm,
        learning_rate=learning_rate(step, settings),
        loss_scale=checked_scale(step, scaler, losses),
    )


def to_host(*tensors: Tensor) -> list[Tensor]:
    """Return the tensors on the host, all in one transfer and in the first one's dtype."""
    flat = torch.cat([tensor.reshape(-1).to(tensors[0]) for tensor in tensors]).cpu()
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def checked_scale(step: int, scaler: GradScaler, losses: Tensor) -> float | None:
    """Return the loss scale; where it is below 1, the overflow is not the scale's fault."""
    if not scaler.is_enabled():
        return None
    scale = scaler.get_scale()
    if scale < 1:
        raise diverged(step, "the gradient overflows fp16 at every scale of the loss", losses)
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


def gathered_samples(step: int, settings: TrainSettings, processes: Processes) -> list[int]:
    """Return the sample numbers of a step in the order in which all processes' are gathered."""
    ranks = (replace(processes, rank=rank) for rank in range(processes.count))
    return [n for each in ranks for part in micro_batches(step, settings, each) for n in part]


@dataclass(frozen=True)
class Requests:
    """The sample numbers of every micro-batch from a step on; can be iterated repeatedly."""

    settings: TrainSettings
    first_step: int = 0
    processes: Processes = ALONE
    fake: FakeTraining | None = None

    def __iter__(self) -> Iterator[range]:
        warmup = self.fake.warmup if self.fake and self.first_step == 0 else 0
        last = self.settings.steps
        for step in (*range(last, last + warmup), *range(self.first_step, last)):
            yield from micro_batches(step, self.settings, self.processes)


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Rise linearly over the warm-up, then stay or fall to zero along a half cosine."""
    rise = min(1.0, (step + 1) / (settings.warmup + 1))
    if settings.decay == "constant":
        return settings.learning_rate * rise
    progress = max(0, step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.learning_rate * rise * (1 + math.cos(math.pi * progress)) / 2


def by_quarter(losses: Tensor, t: Tensor, schedule: NoiseSchedule) -> tuple[float | None, ...]:
    """Return the mean loss in each quarter of the timesteps, cleanest first; None where empty."""
    quarter = (t * 4).div(schedule.num_train_timesteps, rounding_mode="floor")
    return by_part(losses, quarter, 4)


def by_part(losses: Tensor, part: Tensor, count: int | None = None) -> tuple[float | None, ...]:
    """Return the mean loss in each of `count` numbered parts, by default as many as there are."""
    count = int(part.max()) + 1 if count is None else count
    parts = [losses[part == number] for number in range(count)]
    return tuple(part.mean().item() if len(part) else None for part in parts)

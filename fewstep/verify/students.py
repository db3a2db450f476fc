"""Small networks in place of Stable Diffusion, trained by the library's own methods."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.diffusion.prediction import Prediction, from_epsilon
from fewstep.diffusion.random import Draw, generator
from fewstep.diffusion.schedule import NoiseSchedule
from fewstep.methods import Batch, Denoisers, LossOutput, Method
from fewstep.types import Conditioning, Denoiser, Latents, PerSample, Timesteps
from fewstep.verify.effort import Effort, Track
from fewstep.verify.mixture import Mixture
from fewstep.verify.world import SCHEDULE

WIDTH, NUM_FREQUENCIES = 64, 4
"""Of the three hidden layers, and of the time embedding."""

LEARNING_RATE, WARMUP = 5e-3, 50
EMA_DECAY = 0.95
"""Of the moving average, which is the target, as for full fine-tuning, and the result."""


class StudentDenoiser(nn.Module):
    """`num_seeds` independent MLPs in batched matrices; eps from x_t, the time and the label.

    They add to sigma · x_t, the best linear guess for data of unit variance, as much as alpha lets
    through: what is left for them to learn has unit size at every noise level. A batch holds as
    many rows for each seed, the first seed's first.

    Source: Karras et al. 2022 (EDM), section 5, for the variance-preserving process.
    """

    def __init__(
        self, num_seeds: int, dim: int, num_labels: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.num_seeds, self.num_labels = num_seeds, num_labels
        sizes = [dim + 1 + 2 * NUM_FREQUENCIES + num_labels, WIDTH, WIDTH, WIDTH, dim]
        self.weights = nn.ParameterList(
            torch.randn(num_seeds, a, b, generator=generator) / math.sqrt(a)
            for a, b in pairwise(sizes)
        )
        self.biases = nn.ParameterList(torch.zeros(num_seeds, 1, size) for size in sizes[1:])

        t = torch.arange(-1, SCHEDULE.num_train_timesteps)
        log_level = SCHEDULE.noise_to_signal(t.clamp(min=0)).log()[:, None]
        angles = log_level * torch.arange(1, NUM_FREQUENCIES + 1)
        self.time_embedding = torch.cat([log_level, angles.sin(), angles.cos()], dim=1)

    def forward(self, x_t: Latents, t: Timesteps, cond: Conditioning) -> Prediction:
        """Return each row's x_0 and eps, [batch, dim], with as many rows for each seed."""
        alpha, sigma = SCHEDULE.levels(t, x_t)
        label = F.one_hot(cond["label"], self.num_labels).to(x_t)
        rows = torch.cat([x_t, self.time_embedding[t + 1].to(x_t), label], dim=1)
        return from_epsilon(sigma * x_t + alpha * self.mlps(rows), x_t, t, SCHEDULE)

    def mlps(self, rows: Tensor) -> Tensor:
        """Apply each seed's network to its part of the rows."""
        hidden = rows.reshape(self.num_seeds, -1, rows.shape[1])
        *inner, last = zip(self.weights, self.biases, strict=True)
        for weight, bias in inner:
            hidden = F.silu(torch.baddbmm(bias, hidden, weight))
        return torch.baddbmm(last[1], hidden, last[0]).flatten(0, 1)


@dataclass(frozen=True)
class BatchDraw(Draw):
    """One generator for the whole batch, where thousands of tiny samples need no key each."""

    num_samples: int = 0

    def noise_like(self, x: Latents) -> Latents:
        """Return standard normal noise in the shape and dtype of `x`."""
        return torch.randn(x.shape, generator=self.generators[0]).to(x)

    def uniform(self) -> PerSample:
        """Return one number in [0, 1) a sample."""
        return torch.rand(self.num_samples, generator=self.generators[0])


Loss = Callable[[Denoisers, Batch, NoiseSchedule, Draw], LossOutput]
"""Like the `loss` of a method."""


def eps_loss(nets: Denoisers, batch: Batch, schedule: NoiseSchedule, draw: Draw) -> LossOutput:
    """Compare the student's eps with the teacher's at random timesteps."""
    t = (draw.uniform() * schedule.num_train_timesteps).long()
    x_t = schedule.add_noise(batch.x_0, draw.noise_like(batch.x_0), t)
    error = nets.student(x_t, t, batch.cond).eps - nets.teacher(x_t, t, batch.cond).eps
    return LossOutput(error.square().mean(1), t)


@dataclass(frozen=True)
class Trainer:
    """The data to learn from, and how long."""

    mixture: Mixture
    effort: Effort
    track: Track

    def pretrained(self, teacher: Denoiser[Prediction]) -> StudentDenoiser:
        """Return students that imitate the teacher's eps, as a base model does."""
        dim, num_labels = self.mixture.dim, self.mixture.num_classes
        untrained = StudentDenoiser(self.effort.num_seeds, dim, num_labels, generator("networks"))
        num_steps, name = self.effort.pretraining_steps, f"the base in {dim}-D"
        return self._trained(untrained, teacher, eps_loss, num_steps, name)

    def distilled(
        self, base: StudentDenoiser, method: Method, teacher: Denoiser[Prediction]
    ) -> StudentDenoiser:
        """Return the base's students after training with `method`."""
        num_steps, name = self.effort.training_steps, type(method).__name__
        return self._trained(base, teacher, method.loss, num_steps, name)

    def _trained(
        self,
        base: StudentDenoiser,
        teacher: Denoiser[Prediction],
        loss: Loss,
        num_steps: int,
        description: str,
    ) -> StudentDenoiser:
        """Return the moving average of copies of `base` that minimise the loss."""
        student, ema = copy.deepcopy(base), copy.deepcopy(base)
        nets = Denoisers(student, target=ema, teacher=teacher)
        weights, averages = list(student.parameters()), list(ema.parameters())
        optimizer = torch.optim.Adam(weights, LEARNING_RATE, betas=(0.9, 0.99))
        source = generator("training")
        num_rows = self.effort.num_seeds * self.effort.batch_size

        for step in self.track(range(num_steps), description=description):
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * warm_cosine(step, num_steps)
            draw = BatchDraw((source,), progress=step / num_steps, num_samples=num_rows)
            label = torch.randint(0, self.mixture.num_classes, (num_rows,), generator=source)
            batch = Batch(self.mixture.sample(label, source).float(), {"label": label})
            mean_loss = loss(nets, batch, SCHEDULE, draw).loss.mean()
            optimizer.zero_grad()
            (mean_loss * base.num_seeds).backward()  # each seed follows its own mean
            optimizer.step()
            with torch.no_grad():
                for average, weight in zip(averages, weights, strict=True):
                    average.lerp_(weight, 1 - EMA_DECAY)
        return ema


def warm_cosine(step: int, num_steps: int) -> float:
    """Return the factor of the learning rate: up in `WARMUP` steps, down to 0 as a half cosine."""
    return min(1, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / num_steps)) / 2

"""Small students, trained by the library's own methods from the exact teacher."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fewstep.diffusion.prediction import Prediction
from fewstep.diffusion.random import generator
from fewstep.methods import Batch, Denoisers, Method
from fewstep.types import Denoiser, PerSample
from fewstep.verify.effort import Effort, Track
from fewstep.verify.mixture import Mixture
from fewstep.verify.students import BatchDraw, Networks, StudentDenoiser, num_inputs
from fewstep.verify.world import SCHEDULE

LEARNING_RATE = 5e-3
WARMUP = 50
AVERAGE = 0.95
"""Decay of the moving average, which is the target, as for full fine-tuning, and the result."""

Objective = Callable[[Batch, BatchDraw, StudentDenoiser, StudentDenoiser], PerSample]
"""(batch, draw, student, target) to each sample's loss."""


@dataclass(frozen=True)
class Trainer:
    """The data to learn from, and how long."""

    mixture: Mixture
    effort: Effort
    track: Track

    def pretrained(self, teacher: Denoiser[Prediction]) -> StudentDenoiser:
        """Return students that imitate the teacher's eps, as a base model does."""

        def imitate(
            batch: Batch, draw: BatchDraw, student: StudentDenoiser, target: StudentDenoiser
        ) -> PerSample:
            t = (draw.uniform() * SCHEDULE.num_train_timesteps).long()
            x_t = SCHEDULE.add_noise(batch.x_0, draw.noise_like(batch.x_0), t)
            missed = student(x_t, t, batch.cond).eps - teacher(x_t, t, batch.cond).eps
            return missed.square().mean(1)

        dim, num_labels = self.mixture.means.shape[1], self.mixture.num_classes
        inputs = num_inputs(dim, num_labels)
        networks = Networks(self.effort.num_seeds, inputs, dim, generator("networks"))
        fresh = StudentDenoiser(networks, SCHEDULE, num_labels)
        return self._trained(fresh, imitate, self.effort.pretraining_steps, f"the base in {dim}-D")

    def distilled(
        self, base: StudentDenoiser, method: Method, teacher: Denoiser[Prediction]
    ) -> StudentDenoiser:
        """Return the base's students after training with `method`."""

        def objective(
            batch: Batch, draw: BatchDraw, student: StudentDenoiser, target: StudentDenoiser
        ) -> PerSample:
            nets = Denoisers(student=student, target=target, teacher=teacher)
            return method.loss(nets, batch, SCHEDULE, draw).loss

        return self._trained(base, objective, self.effort.training_steps, type(method).__name__)

    def _trained(
        self, base: StudentDenoiser, objective: Objective, num_steps: int, description: str
    ) -> StudentDenoiser:
        """Return the moving average of copies of `base` that follow the objective."""
        student, average = copy.deepcopy(base), copy.deepcopy(base)
        weights, averages = list(student.networks.parameters()), list(average.networks.parameters())
        optimizer = torch.optim.Adam(weights, LEARNING_RATE, betas=(0.9, 0.99))
        source = generator("training")

        for step in self.track(range(num_steps), description=description):
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * warm_cosine(step, num_steps)
            draw = BatchDraw((source,), progress=step / num_steps, num_samples=self._num_rows)
            loss = objective(self._batch(source), draw, student, average)
            optimizer.zero_grad()
            (loss.mean() * self.effort.num_seeds).backward()  # each seed follows its own mean
            optimizer.step()
            with torch.no_grad():
                for mean, weight in zip(averages, weights, strict=True):
                    mean.lerp_(weight, 1 - AVERAGE)
        return average

    def _batch(self, source: torch.Generator) -> Batch:
        label = torch.randint(0, self.mixture.num_classes, (self._num_rows,), generator=source)
        return Batch(self.mixture.sample(label, source).float(), {"label": label})

    @property
    def _num_rows(self) -> int:
        return self.effort.num_seeds * self.effort.batch_size


def warm_cosine(step: int, num_steps: int) -> float:
    """Return the share of the learning rate: up in `WARMUP` steps, down to 0 in a half wave."""
    return min(1, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / num_steps)) / 2

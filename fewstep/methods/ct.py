"""Consistency training (CT): a few-step model from data alone, without asking a teacher."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from fewstep.diffusion.grid import NUM_TRAIN_TIMESTEPS, Grid, doubling
from fewstep.diffusion.random import Draw
from fewstep.diffusion.schedule import CLEAN, NoiseSchedule
from fewstep.diffusion.solvers import ddim
from fewstep.methods.base import (
    Batch,
    Denoisers,
    LossOutput,
    Sampler,
    check_curriculum,
    check_settings,
    measure,
)


@dataclass(frozen=True)
class ConsistencyTraining:
    """The student agrees with itself on the same data under a little more and less of one noise.

    It learns the flow of the data, which is that of the *unguided* model: nothing in its target
    knows guidance. One noise sample stands for the score, so the fixed point is biased, and less so
    with more solver steps: `final_solver_steps` doubles them during training. The squared error is
    the default because a pseudo-Huber distance with a small c adds a bias of its own, that of a
    median, which does not fall (docs/is-it-right.md).

    Source: Song et al. 2023 (Consistency Models), algorithm 3; Song & Dhariwal 2023 (iCT).
    """

    title: ClassVar[str] = "CT"
    full_title: ClassVar[str] = "consistency training"
    sampler: ClassVar[Sampler] = "stochastic"
    has_teacher: ClassVar[bool] = False
    own_huber_c: ClassVar[float] = 0.03

    num_solver_steps: int = 40
    final_solver_steps: int | None = None
    spacing: str = "uniform"
    distance: str = "squared-error"
    huber_c: float | None = None
    weighting: str = "uniform"

    def __post_init__(self) -> None:
        check_settings(self)
        check_curriculum(self.num_solver_steps, self.final_solver_steps, self.spacing)

    def grid(self, num_train_timesteps: int = NUM_TRAIN_TIMESTEPS, progress: float = 1.0) -> Grid:
        """Return the solver's timesteps at `progress` in [0, 1] of training, in one segment."""
        final = self.final_solver_steps or self.num_solver_steps
        num_steps = doubling(progress, self.num_solver_steps, final)
        return Grid(num_steps, 1, self.spacing, num_train_timesteps)

    def loss(
        self, nets: Denoisers, batch: Batch, schedule: NoiseSchedule, draw: Draw
    ) -> LossOutput:
        """Return the loss of one batch."""
        grid = self.grid(schedule.num_train_timesteps, draw.progress)
        t, s = draw.neighbours(grid.timesteps)
        end = torch.full_like(t, CLEAN)
        noise = draw.noise_like(batch.x_0)
        x_t = schedule.add_noise(batch.x_0, noise, t)

        with torch.no_grad():
            x_s = schedule.add_noise(batch.x_0, noise, s)
            target = ddim(nets.target, x_s, s, end, batch.cond)
        pred = ddim(nets.student, x_t, t, end, batch.cond)
        return LossOutput(measure(self, pred - target, t, s, end, schedule), t)

"""Consistency distillation (CD): the student agrees with itself along the teacher's trajectory."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from fewstep.diffusion.grid import NUM_TRAIN_TIMESTEPS, Grid
from fewstep.diffusion.random import Draw
from fewstep.diffusion.schedule import CLEAN, NoiseSchedule
from fewstep.diffusion.solvers import SOLVERS, ddim
from fewstep.methods.base import (
    Batch,
    Denoisers,
    LossOutput,
    Sampler,
    check_settings,
    measure,
)


@dataclass(frozen=True)
class ConsistencyDistillation:
    """One teacher step towards clean data should not change where the student lands.

    Source: Song et al. 2023 (Consistency Models), algorithm 2; Luo et al. 2023 (LCM), algorithm 1.
    """

    title: ClassVar[str] = "CD"
    full_title: ClassVar[str] = "consistency distillation"
    sampler: ClassVar[Sampler] = "stochastic"
    has_teacher: ClassVar[bool] = True
    own_huber_c: ClassVar[float] = 1e-3

    num_solver_steps: int = 40
    spacing: str = "uniform"
    solver: str = "ddim"
    distance: str = "pseudo-huber"
    huber_c: float | None = None
    weighting: str = "uniform"

    def __post_init__(self) -> None:
        check_settings(self)
        self.grid()

    def grid(self, num_train_timesteps: int = NUM_TRAIN_TIMESTEPS, progress: float = 1.0) -> Grid:
        """Return the solver's timesteps, in one segment."""
        return Grid(self.num_solver_steps, 1, self.spacing, num_train_timesteps)

    def loss(
        self, nets: Denoisers, batch: Batch, schedule: NoiseSchedule, draw: Draw
    ) -> LossOutput:
        """Return the loss of one batch."""
        step = SOLVERS[self.solver]
        grid = self.grid(schedule.num_train_timesteps)
        t, s = draw.neighbours(grid.timesteps)
        end = torch.full_like(t, CLEAN)
        x_t = schedule.add_noise(batch.x_0, draw.noise_like(batch.x_0), t)

        with torch.no_grad():
            x_s = step(nets.teacher, x_t, t, s, batch.cond)
            target = ddim(nets.target, x_s, s, end, batch.cond)
        pred = ddim(nets.student, x_t, t, end, batch.cond)
        return LossOutput(measure(self, pred - target, t, s, end, schedule), t)

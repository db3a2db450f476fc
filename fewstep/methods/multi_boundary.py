"""Multi-boundary methods: the trajectory is cut into segments, each with its own jump target.

A jump ends on the lower boundary of its segment instead of on clean data. Sampling is one jump a
segment with no noise added in between, so that an image is a function of its starting noise, as
it is for the teacher. With one segment these are CD and CT.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from fewstep.diffusion.grid import NUM_TRAIN_TIMESTEPS, Grid, doubling
from fewstep.diffusion.random import Draw
from fewstep.diffusion.schedule import NoiseSchedule
from fewstep.diffusion.solvers import SOLVERS, ddim
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
class MultiBoundaryDistillation:
    """CD within each segment.

    Source: Starodubcev et al. 2024 (iCD), section 3.1; Heek et al. 2024 (Multistep CM),
    algorithm 1; Wang et al. 2024 (PCM), section 3.
    """

    title: ClassVar[str] = "Multi-boundary CD"
    full_title: ClassVar[str] = "multi-boundary consistency distillation"
    sampler: ClassVar[Sampler] = "deterministic"
    has_teacher: ClassVar[bool] = True
    own_huber_c: ClassVar[float] = 1e-3

    num_solver_steps: int = 40
    num_segments: int = 4
    spacing: str = "uniform"
    solver: str = "ddim"
    distance: str = "pseudo-huber"
    huber_c: float | None = None
    weighting: str = "uniform"

    def __post_init__(self) -> None:
        check_settings(self)
        self.grid()

    def grid(self, num_train_timesteps: int = NUM_TRAIN_TIMESTEPS, progress: float = 1.0) -> Grid:
        """Return the solver's timesteps, cut into segments."""
        return Grid(self.num_solver_steps, self.num_segments, self.spacing, num_train_timesteps)

    def loss(
        self, nets: Denoisers, batch: Batch, schedule: NoiseSchedule, draw: Draw
    ) -> LossOutput:
        """Return the loss of one batch."""
        step = SOLVERS[self.solver]
        grid = self.grid(schedule.num_train_timesteps)
        t, s = draw.neighbours(grid.timesteps)
        end = grid.boundary_below(s)
        x_t = schedule.add_noise(batch.x_0, draw.noise_like(batch.x_0), t)

        with torch.no_grad():
            x_s = step(nets.teacher, x_t, t, s, batch.cond)
            target = ddim(nets.target, x_s, s, end, batch.cond)
        pred = ddim(nets.student, x_t, t, end, batch.cond)
        return LossOutput(measure(self, pred - target, t, s, end, schedule), t)


@dataclass(frozen=True)
class MultiBoundaryTraining:
    """CT within each segment; its bias is smaller than that of CT in one piece.

    Source: Heek et al. 2024 (Multistep CM), algorithm 1 with "consistency training".
    """

    title: ClassVar[str] = "Multi-boundary CT"
    full_title: ClassVar[str] = "multi-boundary consistency training"
    sampler: ClassVar[Sampler] = "deterministic"
    has_teacher: ClassVar[bool] = False
    own_huber_c: ClassVar[float] = 0.03

    num_solver_steps: int = 40
    final_solver_steps: int | None = None
    num_segments: int = 4
    spacing: str = "uniform"
    distance: str = "squared-error"
    huber_c: float | None = None
    weighting: str = "uniform"

    def __post_init__(self) -> None:
        check_settings(self)
        check_curriculum(self.num_solver_steps, self.final_solver_steps, self.spacing)
        self.grid()

    def grid(self, num_train_timesteps: int = NUM_TRAIN_TIMESTEPS, progress: float = 1.0) -> Grid:
        """Return the solver's timesteps at `progress` in [0, 1] of training, cut into segments."""
        final = self.final_solver_steps or self.num_solver_steps
        num_steps = doubling(progress, self.num_solver_steps, final)
        return Grid(num_steps, self.num_segments, self.spacing, num_train_timesteps)

    def loss(
        self, nets: Denoisers, batch: Batch, schedule: NoiseSchedule, draw: Draw
    ) -> LossOutput:
        """Return the loss of one batch."""
        grid = self.grid(schedule.num_train_timesteps, draw.progress)
        t, s = draw.neighbours(grid.timesteps)
        end = grid.boundary_below(s)
        noise = draw.noise_like(batch.x_0)
        x_t = schedule.add_noise(batch.x_0, noise, t)

        with torch.no_grad():
            x_s = schedule.add_noise(batch.x_0, noise, s)
            target = ddim(nets.target, x_s, s, end, batch.cond)
        pred = ddim(nets.student, x_t, t, end, batch.cond)
        return LossOutput(measure(self, pred - target, t, s, end, schedule), t)

"""What a method is given and gives back, and the error measure that all of them share."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor

from fewstep.diffusion.grid import NUM_TRAIN_TIMESTEPS, SPACINGS, Grid
from fewstep.diffusion.losses import (
    DISTANCES,
    IN_X_0,
    WEIGHTINGS,
    check_weighting,
    x_0_per_jump,
)
from fewstep.diffusion.random import Draw
from fewstep.diffusion.schedule import NoiseSchedule, per_sample
from fewstep.diffusion.solvers import SOLVERS
from fewstep.types import Conditioning, Denoiser, Latents, PerSample, Timesteps

Sampler = Literal["stochastic", "deterministic"]


@dataclass(frozen=True)
class Batch:
    """Clean latents and what they are conditioned on.

    Where `has_latents` is false there are prompts alone, and `x_0` is no more than its shape.
    `generated` is what the student's own update made of the prompts, for the fake score to learn.

    Raises:
        ValueError: if a conditioning tensor has not one row a sample.
    """

    x_0: Latents
    cond: Conditioning
    has_latents: bool = True
    generated: Any = None

    def __post_init__(self) -> None:
        for name, value in self.cond.items():
            if len(value) != len(self.x_0):
                raise ValueError(
                    f"cond[{name!r}] has {len(value)} rows for {len(self.x_0)} latents; "
                    "it has to have one a sample"
                )


def no_fake(x_t: Latents, t: Timesteps, cond: Conditioning) -> Any:
    """Stand for the fake score where nothing trains one."""
    raise TypeError("a fake score was asked, and this training has none: pass Denoisers(fake=…)")


@dataclass(frozen=True)
class Denoisers:
    """The roles of a training step; only `student` carries gradients, and `fake` in `fake_loss`.

    `target` is the student or its moving average. Training from data alone never asks `teacher`.
    `fake` follows the score of what the student generates; only distribution matching has one.
    """

    student: Denoiser[Any]
    target: Denoiser[Any]
    teacher: Denoiser[Any]
    fake: Denoiser[Any] = no_fake


@dataclass(frozen=True)
class LossOutput:
    """Each sample's loss, and the timestep it was computed at.

    Distribution matching adds the number of the segment, 0 being the cleanest, `gap`, the RMS
    distance in x_0 of the unguided teacher from the fake score, and what the student `generated`.
    """

    loss: PerSample
    t: Timesteps
    segment: Int[Tensor, "batch"] | None = None
    gap: PerSample | None = None
    generated: Any = None


@runtime_checkable
class Measured(Protocol):
    """The settings of `measure`, for methods that use it."""

    own_huber_c: ClassVar[float]

    @property
    def distance(self) -> str:
        """A key of DISTANCES."""
        ...

    @property
    def huber_c(self) -> float | None:
        """The pseudo-Huber constant; None is the method's own."""
        ...

    @property
    def weighting(self) -> str:
        """A key of WEIGHTINGS."""
        ...


@runtime_checkable
class Method(Protocol):
    """A frozen dataclass whose fields are the method's settings.

    It may have a `title` and a `full_title`, which pages show in place of its name in METHODS.
    """

    sampler: ClassVar[Sampler]
    has_teacher: ClassVar[bool]

    def grid(self, num_train_timesteps: int = NUM_TRAIN_TIMESTEPS, progress: float = 1.0) -> Grid:
        """Return the solver's timesteps and segments at `progress` in [0, 1] of training."""
        ...

    def loss(
        self, nets: Denoisers, batch: Batch, schedule: NoiseSchedule, draw: Draw
    ) -> LossOutput:
        """Return the loss of one batch, differentiable in the student's weights."""
        ...


@runtime_checkable
class LearnsFake(Method, Protocol):
    """A method that matches distributions: besides the student it trains a fake score."""

    @property
    def needs_latents(self) -> bool:
        """Whether batches have to hold latents; prompts are enough otherwise."""
        ...

    def fake_loss(
        self, nets: Denoisers, batch: Batch, schedule: NoiseSchedule, draw: Draw
    ) -> LossOutput:
        """Return the loss of one batch, differentiable in the fake's weights alone.

        It learns `batch.generated`, and where there is none generates it.
        """
        ...


def needs_latents(method: Method) -> bool:
    """Return whether the method learns from latents, and not from prompts alone."""
    return not isinstance(method, LearnsFake) or method.needs_latents


def measure(
    method: Measured,
    difference: Latents,
    t: Timesteps,
    s: Timesteps,
    end: Timesteps,
    schedule: NoiseSchedule,
) -> PerSample:
    """Return the weighted distance between two jump targets at `end`, predicted from `t`.

    Raises:
        ValueError: if the weighting leaves out the schedule's last timestep.
    """
    check_weighting(method.weighting, schedule)
    weight = WEIGHTINGS[method.weighting](schedule, t, s)
    if method.weighting in IN_X_0:
        difference = difference * per_sample(x_0_per_jump(schedule, t, end), difference)
    return weight * DISTANCES[method.distance](difference, huber_c(method, difference))


def huber_c(method: Measured, difference: Latents) -> float:
    """Return the setting, or where there is none the method's own c; iCT's for the vector form."""
    if method.huber_c is not None:
        return method.huber_c
    if method.distance == "pseudo-huber-vector":
        return 0.00054 * math.sqrt(difference[0].numel())
    return method.own_huber_c


def check_settings(method: Measured) -> None:
    """Refuse settings that no training could use.

    Raises:
        ValueError: naming the setting, its value and the values that work.
    """
    for field, table in (
        ("distance", DISTANCES),
        ("weighting", WEIGHTINGS),
        ("solver", SOLVERS),
        ("spacing", SPACINGS),
    ):
        value = getattr(method, field, None)
        if value is not None and value not in table:
            raise ValueError(f"method.{field} is {value!r}; known: {', '.join(table)}")
    if method.huber_c is None:
        return
    if method.distance == "squared-error":
        raise ValueError("method.huber_c plays no part in distance 'squared-error'; leave it out")
    if not 0 < method.huber_c < math.inf:
        raise ValueError(f"method.huber_c is {method.huber_c}; it has to be above 0")


def check_curriculum(
    num_solver_steps: int, final_solver_steps: int | None, spacing: str = "uniform"
) -> None:
    """Refuse a curriculum that does not double from its first to its last number of steps.

    Raises:
        ValueError: naming the values that work.
    """
    final = num_solver_steps if final_solver_steps is None else final_solver_steps
    most = Grid(num_solver_steps, spacing=spacing).most_steps
    Grid(final, spacing=spacing)
    doubled = [num_solver_steps * 2**i for i in range(NUM_TRAIN_TIMESTEPS.bit_length())]
    reached = [num_steps for num_steps in doubled if num_steps <= most]
    if final not in reached:
        use = f"use {', '.join(map(str, reached[1:]))} or " if reached[1:] else ""
        raise ValueError(
            f"method.final_solver_steps is {final}, which doubling {num_solver_steps} does not "
            f"reach; {use}leave it out"
        )


def known_num_steps(method: Method) -> tuple[int, ...]:
    """Return the numbers of steps that the method's student can be sampled in, rising.

    A deterministic student jumps once a segment; any other may jump from every so many of the
    solver's timesteps.
    """
    grid = method.grid()
    if method.sampler == "deterministic":
        return (grid.num_segments,)
    return tuple(n for n in range(1, grid.num_steps + 1) if grid.num_steps % n == 0)


def sampling_timesteps(
    method: Method, num_steps: int, num_train_timesteps: int = NUM_TRAIN_TIMESTEPS
) -> tuple[int, ...]:
    """Return where the student's `num_steps` jumps start, noisiest first.

    Raises:
        ValueError: if it cannot be sampled in that many, naming the numbers that work.
    """
    grid, known = method.grid(num_train_timesteps), known_num_steps(method)
    if num_steps in known:
        return replace(grid, num_segments=num_steps).starts
    if method.sampler == "deterministic":
        raise ValueError(
            f"the student was trained on {grid.num_segments} segments and is sampled in "
            f"{grid.num_segments} steps, not {num_steps}; for {num_steps} steps train one with "
            f"method.num_segments = {num_steps}"
        )
    raise ValueError(
        f"{num_steps} sampling steps do not start on the {grid.num_steps} grid timesteps that the "
        f"student was trained on: use {', '.join(map(str, known))}"
    )

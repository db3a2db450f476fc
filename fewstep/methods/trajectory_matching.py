"""Trajectory matching: what the student generates is, at every noise level, what the teacher would.

The student walks down its own trajectory. A second network, the fake score, follows the
distribution of what it makes; where the teacher's prediction differs from the fake's, the student
is moved by that difference. No image is compared with another, so the student may choose which of
the teacher's images it makes: it need not copy a trajectory of fifty steps in four.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fewstep.diffusion.grid import NUM_TRAIN_TIMESTEPS, Grid
from fewstep.diffusion.losses import squared_error
from fewstep.diffusion.random import Draw
from fewstep.diffusion.schedule import CLEAN, NoiseSchedule, per_sample
from fewstep.methods.base import Batch, Denoisers, LossOutput, Sampler
from fewstep.methods.multi_boundary import MultiBoundaryDistillation
from fewstep.types import Conditioning, Latents, Timesteps

MARGIN, LOWEST = 10, 20
"""How far the matched timesteps stay from both ends, and the cleanest of all: close to where a jump
ends the noise added is too little to tell distributions apart."""

LEAST_SIGNAL = 0.005
"""The smallest alpha² that the fake's loss is divided by; Stable Diffusion's at timestep 990."""


@dataclass(frozen=True)
class Segment:
    """One of the student's jumps, of a whole batch: from x_t at `t`, an end of the grid, to `end`.

    `x_0` is predicted with gradient; `z` at `end` is where noise is added again, up to a timestep
    from `low` to `high`.
    """

    x_0: Latents
    z: Latents
    end: int
    low: int
    high: int


@dataclass(frozen=True)
class TrajectoryMatching:
    """The student's distribution is matched at the end of each jump of its own trajectory.

    `sampler` says which trajectory: "deterministic" is that of a multi-boundary student, whose
    jumps end on the segments' boundaries; "stochastic" is CD's, whose jumps end on clean data and
    are noised again. `anchor` is the weight of a consistency loss on data, multi-boundary CD's or
    CD's, in `num_solver_steps` steps of the teacher; with 0 there is none and prompts are enough.
    `guidance_weight` multiplies the teacher's guidance in what is matched, not in the anchor; on
    the bundled world more than 1 was worse.

    Source: Luo et al. 2025 (TDM), arXiv 2503.06674; Fan et al. 2025 (Phased DMD), 2510.27684, for
    the exact score inside a segment; Zheng et al. 2025 (rCM), 2510.08431, for the anchor.
    """

    title: ClassVar[str] = "Trajectory matching"
    full_title: ClassVar[str] = "trajectory distribution matching"
    has_teacher: ClassVar[bool] = True

    num_segments: int = 4
    num_solver_steps: int = 40
    spacing: str = "uniform"
    sampler: Sampler = "deterministic"
    anchor: float = 0.0
    guidance_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("anchor", "guidance_weight"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"method.{name} is {value}; it has to be 0 (none) or more")
        self.anchor_method.grid()
        self.grid()

    @property
    def needs_latents(self) -> bool:
        """Whether batches have to hold latents: the anchor alone looks at them."""
        return self.anchor > 0

    @property
    def anchor_method(self) -> MultiBoundaryDistillation:
        """The consistency loss of the same jumps."""
        num_segments = self.num_segments if self.sampler == "deterministic" else 1
        return MultiBoundaryDistillation(
            self.num_solver_steps,
            num_segments,
            self.spacing,
            distance="squared-error",
            weighting="snr-plus-one",
        )

    def grid(self, num_train_timesteps: int = NUM_TRAIN_TIMESTEPS, progress: float = 1.0) -> Grid:
        """Return the timesteps that the student jumps from and, if deterministic, its segments."""
        if self.sampler == "stochastic":
            return Grid(self.num_segments, 1, self.spacing, num_train_timesteps)
        return self.anchor_method.grid(num_train_timesteps)

    def loss(
        self, nets: Denoisers, batch: Batch, schedule: NoiseSchedule, draw: Draw
    ) -> LossOutput:
        """Return the student's loss, of every segment of each prompt's trajectory."""
        segments = list(self.trajectory(nets, batch, schedule, draw))
        x_0 = torch.cat([segment.x_0 for segment in segments])
        with torch.no_grad():
            noised = [noise_again(segment, schedule, draw) for segment in segments]
            x_tau, tau = (torch.cat([one[i] for one in noised]) for i in (0, 1))
            cond = repeated(batch.cond, len(segments))
            teacher, fake = nets.teacher(x_tau, tau, cond), nets.fake(x_tau, tau, cond)
            unguided = teacher.x_0 if teacher.unguided is None else teacher.unguided
            guidance = self.guidance_weight * (teacher.x_0 - unguided)
            target = x_0 + (unguided - fake.x_0) + guidance
            weight = 1 / (x_0 - teacher.x_0).abs().flatten(1).mean(1).clamp(min=1e-6)
            gap = squared_error(unguided - fake.x_0).sqrt()

        loss = weight * squared_error(x_0 - target) / 2
        if self.anchor:
            anchor = self._anchor_loss(nets, batch, schedule, draw)
            loss = loss + self.anchor * anchor.repeat(len(segments))
        generated = [replace(segment, x_0=segment.x_0.detach()) for segment in segments]
        return LossOutput(loss, tau, numbers(segments), gap, generated)

    def fake_loss(
        self, nets: Denoisers, batch: Batch, schedule: NoiseSchedule, draw: Draw
    ) -> LossOutput:
        """Return the fake's loss, whose minimiser is the exact score of what the student makes.

        It is weighted as an error in v: one in eps hardly shows where the mean of an image is at
        high noise, and what the fake does not follow there, guidance moves on and on.
        """
        with torch.no_grad():
            segments = batch.generated or list(self.trajectory(nets, batch, schedule, draw))
            noised = [noise_again(segment, schedule, draw) for segment in segments]
        x_tau, tau, noise, share = (torch.cat([one[i] for one in noised]) for i in range(4))
        eps = nets.fake(x_tau, tau, repeated(batch.cond, len(segments))).eps
        signal = schedule.alpha(tau).square().clamp(min=LEAST_SIGNAL)
        return LossOutput(squared_error(share * eps - noise) / signal, tau, numbers(segments))

    def trajectory(
        self, nets: Denoisers, batch: Batch, schedule: NoiseSchedule, draw: Draw
    ) -> Iterator[Segment]:
        """Yield the student's jumps from pure noise, as it is sampled; none sees the one before.

        Each is matched up to the noise of the jump before it: at those of its own segment alone
        the mean of an image is all but read off from x_tau, and nothing would hold it in place.
        """
        x_t = draw.noise_like(batch.x_0)
        ends = self.grid(schedule.num_train_timesteps).cut(self.num_segments)
        for i in range(self.num_segments, 0, -1):
            t, below, above = ends[i], ends[i - 1], ends[min(i + 1, self.num_segments)]
            pred = nets.student(x_t, filled(t, x_t), batch.cond)
            if self.sampler == "deterministic":
                z, end = pred.at(filled(below, x_t)).detach(), below
                x_t = z
            else:
                z, end = pred.x_0.detach(), CLEAN
                x_t = schedule.add_noise(z, draw.noise_like(z), filled(below, z))
            yield Segment(pred.x_0, z, end, *window(below, above))

    def _anchor_loss(
        self, nets: Denoisers, batch: Batch, schedule: NoiseSchedule, draw: Draw
    ) -> Tensor:
        if not batch.has_latents:
            raise ValueError(
                f"method.anchor is {self.anchor}, which needs images or latents, and the batch "
                "holds prompts alone: give both, or set method.anchor = 0"
            )
        return self.anchor_method.loss(nets, batch, schedule, draw).loss


def window(below: int, above: int) -> tuple[int, int]:
    """Return the cleanest and the noisiest timestep to match at, strictly between two.

    >>> window(249, 499), window(-1, 249), window(-1, 14)
    ((259, 489), (20, 239), (6, 11))
    """
    margin = min(MARGIN, (above - below) // 4)
    low = min(LOWEST, (above + below) // 2) if below == CLEAN else below + margin
    return low, above - margin


def noise_again(
    segment: Segment, schedule: NoiseSchedule, draw: Draw
) -> tuple[Latents, Timesteps, Latents, Tensor]:
    """Return x_tau, tau, the noise that led there from the segment's end, and beta / sigma.

    x_tau = a z + beta * noise has the student's law at tau, if z has its law at `end`; the share of
    this noise in all that x_tau holds is beta / sigma.

    Source: Fan et al. 2025 (Phased DMD), the score within a sub-interval.
    """
    span = segment.high - segment.low + 1
    tau = segment.low + (draw.uniform() * span).long()
    noise = draw.noise_like(segment.z)
    alpha, sigma = schedule.exact(tau)
    alpha_end, sigma_end = schedule.exact(filled(segment.end, segment.z))
    a = alpha / alpha_end
    beta = (sigma.square() - (a * sigma_end).square()).clamp(min=0).sqrt()
    a, b, share = (per_sample(v, noise).to(noise.dtype) for v in (a, beta, beta / sigma))
    return a * segment.z + b * noise, tau, noise, share


def numbers(segments: Sequence[Segment]) -> Tensor:
    """Return each row's segment, 0 being the cleanest; they are walked from the noisiest down."""
    falling = reversed(range(len(segments)))
    return torch.cat([filled(i, one.z) for i, one in zip(falling, segments, strict=True)])


def filled(t: int, x: Latents) -> Timesteps:
    """Return the timestep `t` for every sample of `x`."""
    return torch.full((len(x),), t, dtype=torch.long, device=x.device)


def repeated(cond: Conditioning, times: int) -> Conditioning:
    """Return the conditioning of as many copies of the whole batch, one after another."""
    return {name: torch.cat([value] * times) for name, value in cond.items()}

"""Learned students against the exact flow: the error of the objective, and that of the network.

Each seed has its own training and its own starting noise; intervals are over seeds.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from fewstep.diffusion.grid import Grid
from fewstep.diffusion.random import generator
from fewstep.evaluation.intervals import Interval, mean_of_few
from fewstep.methods import METHODS, Method
from fewstep.methods.base import sampling_timesteps
from fewstep.student.samplers import SAMPLERS, deterministic, last
from fewstep.types import Conditioning, Latents
from fewstep.verify.distances import energy_distance, same_noise
from fewstep.verify.effort import Effort, Track
from fewstep.verify.fixed_points import Training, fixed_point, interpolate
from fewstep.verify.mixture import Mixture
from fewstep.verify.students import BatchDraw, StudentDenoiser, Trainer
from fewstep.verify.world import (
    LINE,
    PLANE,
    SCHEDULE,
    denoiser_on,
    every_class,
    exact_flow,
    start,
    to_clean,
)

MIXTURES = {"plane": PLANE, "line": LINE}
STUDENTS = {
    ("plane", 1.0): {
        "cd": (1, 4), "multi-boundary-cd": (4,), "ct": (1, 4), "multi-boundary-ct": (4,),
    },
    ("plane", 3.0): {"cd": (1, 4), "multi-boundary-cd": (4,)},
    ("line", 1.0): {"ct": (1,), "multi-boundary-ct": (4,)},
}  # fmt: skip
"""Data and guidance scale, the methods to train there, and the NFE at which to measure each."""

TEACHER_NFE = (1, 4, 40)


@dataclass(frozen=True)
class HeldOut:
    """Starting noise that no training used, in equal parts for each seed, and its true samples.

    `reference` are true samples from other noise. Distances are in units of the data's RMS.
    """

    mixture: Mixture
    guidance_scale: float
    num_seeds: int
    x: Latents
    cond: Conditioning
    truth: Latents
    reference: Latents

    @classmethod
    def of(cls, mixture: Mixture, guidance_scale: float, effort: Effort) -> "HeldOut":
        """Draw the noise and follow the flow."""
        flow = exact_flow(mixture, guidance_scale)
        count = effort.num_seeds * effort.num_samples
        x, cond = start(every_class(count, mixture), generator("exam"), mixture)
        y, other = start(every_class(2 * effort.num_samples, mixture), generator("marks"), mixture)
        truth, reference = to_clean(flow, x, cond), to_clean(flow, y, other)
        return cls(mixture, guidance_scale, effort.num_seeds, x, cond, truth, reference)

    def sample(self, student: StudentDenoiser, timesteps: Sequence[int], sampler: str) -> Latents:
        """Sample from the starting noise in fp32, as networks do."""
        draw, x = BatchDraw((generator("fresh noise"),)), self.x.float()
        with torch.no_grad():
            steps = SAMPLERS[sampler](student, x, timesteps, self.cond, SCHEDULE, draw)
            return last(steps).double()

    def ddim(self, num_steps: int) -> Latents:
        """Sample the exact teacher in plain DDIM steps."""
        teacher = denoiser_on(SCHEDULE, self.mixture, self.guidance_scale)
        return last(deterministic(teacher, self.x, Grid(num_steps).trailing, self.cond))

    def same_noise(self, samples: Latents, truth: Latents) -> Interval:
        """Return the RMS distance to what the same noise should have become."""
        pairs = zip(samples.chunk(self.num_seeds), truth.chunk(self.num_seeds), strict=True)
        return mean_of_few([same_noise(*pair) / self.mixture.rms for pair in pairs])

    def energy(self, samples: Latents) -> Interval:
        """Return the energy distance to the true samples."""
        parts = samples.chunk(self.num_seeds)
        return mean_of_few([energy_distance(p, self.reference) / self.mixture.rms for p in parts])


def measure_networks(effort: Effort, track: Track) -> list[dict]:
    """Return a row for each way of sampling: the exact teacher's DDIM and the trained students."""
    rows, bases = [], {}
    for (world, guidance_scale), methods in STUDENTS.items():
        mixture = MIXTURES[world]
        trainer = Trainer(mixture, effort, track)
        if world not in bases:
            bases[world] = trainer.pretrained(denoiser_on(SCHEDULE, mixture))
        held_out = HeldOut.of(mixture, guidance_scale, effort)
        teacher = denoiser_on(SCHEDULE, mixture, guidance_scale)
        found = [
            row("teacher", nfe, "deterministic", held_out, held_out.ddim(nfe))
            for nfe in TEACHER_NFE
        ]
        for name, nfes in methods.items():
            student = trainer.distilled(bases[world], METHODS[name](), teacher)
            found += [student_row(name, nfe, held_out, student) for nfe in nfes]
        rows += [{"world": world, "guidance_scale": guidance_scale, **one} for one in found]
    return rows


def row(method: str, nfe: int, sampler: str, held_out: HeldOut, samples: Latents) -> dict:
    """Return the distances to the exact flow's samples, point by point and as a distribution."""
    return {
        "method": method,
        "calls": nfe,
        "sampler": sampler,
        "same_noise": asdict(held_out.same_noise(samples, held_out.truth)),
        "energy": asdict(held_out.energy(samples)),
    }


def student_row(name: str, nfe: int, held_out: HeldOut, student: StudentDenoiser) -> dict:
    """Sample the students of one training; split their error where the fixed point is known."""
    method = METHODS[name]()
    sampler = "deterministic" if nfe == 1 else method.sampler
    samples = held_out.sample(student, sampling_timesteps(method, nfe), sampler)
    found = row(name, nfe, sampler, held_out, samples)
    goal = fixed_point_samples(method, held_out) if sampler == "deterministic" else None
    if goal is not None:
        found["objective"] = asdict(held_out.same_noise(goal, held_out.truth))
        found["network"] = asdict(held_out.same_noise(samples, goal))
    return found


def fixed_point_samples(method: Method, held_out: HeldOut) -> Latents | None:
    """Return the samples of the objective's fixed point, where that is known.

    CD's, in one segment or in many, are those of DDIM with all solver steps; CT's are computed on
    the line.
    """
    grid = method.grid()
    if method.has_teacher:
        return held_out.ddim(grid.num_steps)
    if held_out.mixture is not LINE:
        return None
    targets = fixed_point(Training(), SCHEDULE, grid.timesteps, grid.boundaries)
    return interpolate(targets, held_out.x)

"""Starting noise that no training saw, with the true answers to judge students by."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fewstep.diffusion.grid import Grid
from fewstep.diffusion.random import generator
from fewstep.diffusion.schedule import CLEAN
from fewstep.evaluation.intervals import Interval
from fewstep.student.samplers import SAMPLERS, deterministic, last
from fewstep.types import Conditioning, Denoiser, Landing, Latents
from fewstep.verify.distances import energy_distance, over_seeds, same_noise
from fewstep.verify.effort import Effort
from fewstep.verify.mixture import Mixture
from fewstep.verify.students import BatchDraw
from fewstep.verify.world import (
    SCHEDULE,
    TOP,
    denoiser_on,
    every_class,
    everywhere,
    exact_flow,
    start,
)


@dataclass(frozen=True)
class HeldOut:
    """Starting noise, as much for each seed, and where the exact flow takes it.

    `reference` are the flow's samples from other noise. Distances are in units of the data's RMS.
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
        truth = flow(x, everywhere(TOP, x), cond).at(everywhere(CLEAN, x))
        y, other = start(every_class(2 * effort.num_samples, mixture), generator("marks"), mixture)
        reference = flow(y, everywhere(TOP, y), other).at(everywhere(CLEAN, y))
        return cls(mixture, guidance_scale, effort.num_seeds, x, cond, truth, reference)

    def sample(
        self, denoiser: Denoiser[Landing], timesteps: Sequence[int], sampler: str
    ) -> Latents:
        """Sample from the starting noise in fp32, as networks do."""
        draw = BatchDraw((generator("fresh noise"),))
        with torch.no_grad():
            points = last(
                SAMPLERS[sampler](denoiser, self.x.float(), timesteps, self.cond, SCHEDULE, draw)
            )
        return points.double()

    def ddim(self, calls: int) -> Latents:
        """Sample the exact teacher in plain DDIM steps."""
        teacher = denoiser_on(SCHEDULE, self.mixture, self.guidance_scale)
        return last(deterministic(teacher, self.x, Grid(calls).trailing, self.cond))

    def same_noise(self, points: Latents, truth: Latents) -> Interval:
        """Return the RMS distance to what the same noise should have become."""
        pairs = zip(self._by_seed(points), self._by_seed(truth), strict=True)
        return over_seeds([same_noise(*pair) / self.mixture.rms for pair in pairs])

    def energy(self, points: Latents) -> Interval:
        """Return the energy distance to the exact flow's samples."""
        distances = [energy_distance(ours, self.reference) for ours in self._by_seed(points)]
        return over_seeds([distance / self.mixture.rms for distance in distances])

    def _by_seed(self, points: Latents) -> tuple[Latents, ...]:
        return points.chunk(self.num_seeds)

"""Distribution matching where every score is known: one dimension, one segment, formulas.

The student is a line, x_0 = mean + deviation * x_T, so that what it makes is a Gaussian and its
exact score a formula. The method's own losses then show what the fake's minimiser is, and where
the student ends when the fake is exact.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.diffusion.prediction import Prediction, from_epsilon
from fewstep.diffusion.random import generator
from fewstep.methods.base import Batch, Denoisers
from fewstep.methods.trajectory_matching import Segment, TrajectoryMatching, noise_again
from fewstep.types import Conditioning, Latents, Timesteps
from fewstep.verify.mixture import Mixture
from fewstep.verify.students import BatchDraw
from fewstep.verify.world import SCHEDULE, denoiser_on, fp64

PAIR = Mixture(
    means=fp64([[1.0], [-1.0]]),
    deviations=fp64([0.3, 0.3]),
    weights=fp64([0.5, 0.5]),
    classes=torch.tensor([0, 1]),
)
"""Two classes of one Gaussian each: what the student can make, it can make exactly."""


@dataclass(frozen=True)
class GaussianLaw:
    """A student that makes N(mean, deviation²) of clean data; its segment ends at `end`."""

    mean: float
    deviation: float
    end: int

    def samples(self, count: int, source: torch.Generator) -> Latents:
        """Draw its points z at the segment's end."""
        alpha, sigma = levels(self.end)
        noise = torch.randn(count, 1, generator=source).double()
        spread = ((alpha * self.deviation) ** 2 + sigma**2) ** 0.5
        return alpha * self.mean + spread * noise

    def eps(self, x_tau: Latents, tau: int) -> Latents:
        """Return -sigma times the exact score of its law at `tau`."""
        alpha, sigma = levels(tau)
        variance = (alpha * self.deviation) ** 2 + sigma**2
        return sigma * (x_tau - alpha * self.mean) / variance


def levels(t: int) -> tuple[float, float]:
    """Return alpha and sigma at a timestep."""
    return SCHEDULE.alphas[t + 1].item(), SCHEDULE.sigmas[t + 1].item()


def fake_minimisers(law: GaussianLaw, tau: int, count: int = 400_000) -> dict[str, Tensor]:
    """Return the linear fake scores that minimise three losses, and the exact one, as (a, b).

    Each is eps = a x_tau + b, which is exact for a Gaussian law. "exact form" is the loss of
    `TrajectoryMatching.fake_loss`; "plain" reads all noise in x_tau as the drawn one.
    """
    source = generator("matching")
    z = law.samples(count, source)
    draw = BatchDraw((source,), num_samples=count)
    x_tau, _, noise, share = noise_again(Segment(z, z, law.end, tau, tau), SCHEDULE, draw)
    rows = torch.cat([x_tau, torch.ones_like(x_tau)], dim=1)
    targets = {"exact form": noise / share, "plain": noise}
    found = {name: torch.linalg.lstsq(rows, y).solution[:, 0] for name, y in targets.items()}
    at = torch.tensor([[0.0], [1.0]]).double()
    first, second = law.eps(at, tau)[:, 0]
    return found | {"exact": torch.stack([second - first, first])}


def fixed_point(
    guidance_scale: float = 1.0, sign: float = 1.0, num_steps: int = 1500
) -> GaussianLaw:
    """Return where the student of class 0 ends that is matched with an exact fake score.

    With a `sign` of -1 the difference of teacher and fake is turned around.
    """
    weights = torch.tensor([0.3, 0.8], dtype=torch.float64, requires_grad=True)
    teacher = denoiser_on(SCHEDULE, PAIR, guidance_scale)
    cond = {"label": torch.zeros(256, dtype=torch.long)}
    batch = Batch(torch.zeros(256, 1, dtype=torch.float64), cond, has_latents=False)

    def student(x_t: Latents, t: Timesteps, cond: Conditioning) -> Prediction:
        alpha, sigma = SCHEDULE.levels(t, x_t)
        x_0 = weights[0] + weights[1] * x_t
        return Prediction(x_0, (x_t - alpha * x_0) / sigma, SCHEDULE)

    def fake(x_t: Latents, t: Timesteps, cond: Conditioning) -> Prediction:
        mean, deviation = weights.detach()
        alpha, sigma = SCHEDULE.levels(t, x_t)
        eps = sigma * (x_t - alpha * mean) / ((alpha * deviation).square() + sigma.square())
        own = from_epsilon(eps, x_t, t, SCHEDULE)
        right = teacher(x_t, t, cond)
        x_0 = right.x_0 + sign * (own.x_0 - right.x_0)
        return Prediction(x_0, own.eps, SCHEDULE)

    method, source = TrajectoryMatching(num_segments=1), generator("fixed point")
    optimizer = torch.optim.Adam([weights], 1e-2)
    for step in range(num_steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / num_steps)
        draw = BatchDraw((source,), num_samples=256)
        optimizer.zero_grad()
        nets = Denoisers(student, student, teacher, fake)
        method.loss(nets, batch, SCHEDULE, draw).loss.mean().backward()
        optimizer.step()
    mean, deviation = weights.tolist()
    return GaussianLaw(mean, abs(deviation), -1)

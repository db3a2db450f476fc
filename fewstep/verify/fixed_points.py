"""Where an objective leads a network of unlimited size: exact fixed points in one dimension.

A consistency model's loss at a knot refers to the model at the knot below, so the landing points
that minimise it are computed from the boundary upwards, on a grid of x. What then differs from the
true flow is the objective's own doing: the solver's error for CD, the bias for CT.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float64
from torch import Tensor

from fewstep.diffusion.schedule import CLEAN, NoiseSchedule
from fewstep.diffusion.solvers import ddim
from fewstep.verify.mixture import Mixture, MixtureDenoiser
from fewstep.verify.world import any_class, everywhere, exact_flow

Nodes = Float64[Tensor, "points nodes"]
Landing = Float64[Tensor, " points"]
"""Where each point of the grid lands."""

Rule = Callable[[NoiseSchedule, int, int, Landing], Landing]
"""(schedule, t, s, landing points from s) to the landing points from t."""

REACH = 5.0
"""The grid's half width; at every noise level the data's deviation is about 1."""


@dataclass(frozen=True)
class Distillation:
    """CD: one DDIM step of the exact teacher; every distance has this fixed point."""

    mixture: Mixture
    num_points: int = 16001

    def __call__(self, schedule: NoiseSchedule, t: int, s: int, landing: Landing) -> Landing:
        x_t = grid(self.num_points)[:, None]
        label = {"label": any_class(len(x_t), self.mixture)}
        teacher = MixtureDenoiser(self.mixture, schedule)
        x_s = ddim(teacher, x_t, everywhere(t, x_t), everywhere(s, x_t), label)
        return interpolate(landing, x_s[:, 0])


@dataclass(frozen=True)
class Training:
    """CT: the data and the noise behind x_t are not known, and the loss averages over them.

    `huber_c` of None is the squared error, whose minimiser is the mean; pseudo-Huber's tends to
    the median as c tends to 0.
    """

    mixture: Mixture
    huber_c: float | None = None
    num_points: int = 1001
    num_nodes: int = 49

    def __call__(self, schedule: NoiseSchedule, t: int, s: int, landing: Landing) -> Landing:
        x_t = grid(self.num_points)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(schedule, t), levels(schedule, s)
        x_0, share = posterior(self.mixture, x_t, (alpha_t, sigma_t), self.num_nodes)
        noise = (x_t[:, None] - alpha_t * x_0) / sigma_t
        target = interpolate(landing, alpha_s * x_0 + sigma_s * noise)
        if self.huber_c is None:
            return (share * target).sum(1)
        return huber_minimiser(target, share, self.huber_c)


def fixed_point(
    rule: Distillation | Training,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    ends: Sequence[int],
) -> Landing:
    """Return where the fixed point takes the grid from the highest timestep to CLEAN.

    `timesteps` and `ends`, the lower ends of the segments, rise and start with CLEAN. The segments
    are sampled one after another, from the top.
    """
    x = grid(rule.num_points)
    composed = landing = x
    for s, t in pairwise(timesteps):
        if s in ends:
            composed, landing = interpolate(composed, landing), x
        landing = rule(schedule, t, s, landing)
    return interpolate(composed, landing)


@dataclass(frozen=True)
class TrueMap:
    """Where the exact flow takes a fine grid from the top to CLEAN, and how likely each point is.

    Fine, because between two modes the map is so steep that a coarse grid would step over the
    points that land in the wrong one.
    """

    x: Landing
    landing: Landing
    likelihood: Landing

    @classmethod
    def of(cls, mixture: Mixture, schedule: NoiseSchedule, top: int) -> "TrueMap":
        x = grid(8001)[:, None]
        cond = {"label": any_class(len(x), mixture)}
        path = exact_flow(mixture, schedule=schedule)(x, everywhere(top, x), cond)
        density = noised_density(mixture, x[:, 0], levels(schedule, top))
        return cls(x[:, 0], path.at(everywhere(CLEAN, x))[:, 0], density / density.sum())

    def rms_error(self, landing: Landing) -> float:
        """Return the RMS distance of another map, on a grid of any size, over noised data."""
        missed = interpolate(landing, self.x) - self.landing
        return math.sqrt((self.likelihood * missed.square()).sum())


def grid(num_points: int) -> Landing:
    return torch.linspace(-REACH, REACH, num_points, dtype=torch.float64)


def interpolate(landing: Landing, x: Tensor) -> Tensor:
    """Read a function on the grid at any x, linearly; constant beyond the ends."""
    last = len(landing) - 1
    position = ((x + REACH) * (last / (2 * REACH))).clamp(0, last - 1e-9)
    below = position.long()
    return torch.lerp(landing[below], landing[below + 1], position - below)


def levels(schedule: NoiseSchedule, t: int) -> tuple[float, float]:
    return schedule.alphas[t + 1].item(), schedule.sigmas[t + 1].item()


def posterior(
    mixture: Mixture, x_t: Landing, level: tuple[float, float], num_nodes: int
) -> tuple[Nodes, Nodes]:
    """Return values that x_0 may have had, with their probabilities, for each point x_t.

    Given a component x_0 is Gaussian; even nodes out to 4.5 deviations stand for it.
    """
    alpha, sigma = level
    means, deviations = mixture.means[:, 0], mixture.deviations
    offset = x_t[:, None] - alpha * means
    variance = (alpha * deviations).square() + sigma**2
    component = (
        mixture.weights.log() - offset.square() / variance / 2 - variance.log() / 2
    ).softmax(1)
    centre = means + alpha * deviations.square() / variance * offset
    width = deviations * sigma / variance.sqrt()

    z = torch.linspace(-4.5, 4.5, num_nodes, dtype=torch.float64)
    x_0 = centre[..., None] + width[:, None] * z
    share = component[..., None] * (-z.square() / 2).softmax(0)
    return x_0.flatten(1), share.flatten(1)


def huber_minimiser(target: Nodes, share: Nodes, c: float) -> Landing:
    """Return the point of least expected pseudo-Huber distance, by bisection on its slope."""
    target, share = target.float(), share.float()
    low, high = target.amin(1, keepdim=True), target.amax(1, keepdim=True)
    for _ in range(16):
        middle = (low + high) / 2
        gap = middle - target
        pull = gap * torch.rsqrt(gap * gap + c * c)
        too_low = torch.linalg.vecdot(share, pull)[:, None] < 0
        low, high = torch.where(too_low, middle, low), torch.where(too_low, high, middle)
    return ((low + high) / 2)[:, 0].double()


def noised_density(mixture: Mixture, x_t: Landing, level: tuple[float, float]) -> Landing:
    """Return the density of noised data, up to a factor."""
    alpha, sigma = level
    variance = (alpha * mixture.deviations).square() + sigma**2
    offset = x_t[:, None] - alpha * mixture.means[:, 0]
    return (mixture.weights / variance.sqrt() * (-offset.square() / variance / 2).exp()).sum(1)

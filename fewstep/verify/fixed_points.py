"""Where an objective leads a network of unlimited size: exact fixed points in one dimension.

A consistency model's loss at a grid timestep refers to the model at the timestep below, so the
jump targets that minimise it are computed from the boundary upwards, for the points x of a line.
What then differs from the true flow is the objective's error: the solver's for CD, the bias for CT.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float64
from torch import Tensor

from fewstep.diffusion.schedule import NoiseSchedule
from fewstep.diffusion.solvers import ddim
from fewstep.verify.world import LINE, any_class, denoiser_on, everywhere, exact_flow, to_clean

Values = Float64[Tensor, "points values"]
Targets = Float64[Tensor, " points"]
"""The jump target of each of the evenly spaced points of `line`."""

HALF_WIDTH = 5.0
"""Of the line; at every noise level the data's deviation is about 1."""


@dataclass(frozen=True)
class Distillation:
    """CD: one DDIM step of the exact teacher; every distance has this fixed point."""

    num_points: int = 16001

    def targets(self, schedule: NoiseSchedule, t: int, s: int, targets: Targets) -> Targets:
        """Return the jump targets from t, given those from s."""
        x_t = line(self.num_points)[:, None]
        cond = {"label": any_class(len(x_t), LINE)}
        teacher = denoiser_on(schedule, LINE)
        x_s = ddim(teacher, x_t, everywhere(t, x_t), everywhere(s, x_t), cond)
        return interpolate(targets, x_s[:, 0])


@dataclass(frozen=True)
class Training:
    """CT: the loss averages over the data and the noise that may be behind x_t.

    `huber_c` of None is the squared error, whose minimiser is the mean; pseudo-Huber's tends to
    the median as c tends to 0.
    """

    huber_c: float | None = None
    num_points: int = 1001
    num_nodes: int = 49

    def targets(self, schedule: NoiseSchedule, t: int, s: int, targets: Targets) -> Targets:
        """Return the jump targets from t, given those from s."""
        x_t = line(self.num_points)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(schedule, t), levels(schedule, s)
        x_0, probability = posterior(x_t, (alpha_t, sigma_t), self.num_nodes)
        noise = (x_t[:, None] - alpha_t * x_0) / sigma_t
        values = interpolate(targets, alpha_s * x_0 + sigma_s * noise)
        if self.huber_c is None:
            return (probability * values).sum(1)
        return huber_minimiser(values, probability, self.huber_c)


def fixed_point(
    objective: Distillation | Training,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    boundaries: Sequence[int],
) -> Targets:
    """Return where the objective's fixed point takes the line from the highest timestep to CLEAN.

    `timesteps` and `boundaries`, the lower ends of the segments, rise and start with CLEAN. The
    segments are sampled one after another, from the top.
    """
    below = targets = line(objective.num_points)
    for s, t in pairwise(timesteps):
        if s in boundaries:
            below, targets = interpolate(below, targets), line(objective.num_points)
        targets = objective.targets(schedule, t, s, targets)
    return interpolate(below, targets)


class TrueMap:
    """Where the exact flow takes a fine line from the top to CLEAN, and how likely each point is.

    Fine, because between two modes the map is so steep that a coarse line would step over the
    points that end in the wrong one.
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        x = line(8001)[:, None]
        cond = {"label": any_class(len(x), LINE)}
        self.x = x[:, 0]
        self.targets = to_clean(exact_flow(LINE, schedule=schedule), x, cond)[:, 0]
        density = noised_density(self.x, levels(schedule, schedule.num_train_timesteps - 1))
        self.probability = density / density.sum()

    def rms_error(self, targets: Targets) -> float:
        """Return the RMS distance of another map, on a line of any fineness, over noised data."""
        error = interpolate(targets, self.x) - self.targets
        return math.sqrt((self.probability * error.square()).sum())


def line(num_points: int) -> Targets:
    """Return evenly spaced points on [-HALF_WIDTH, HALF_WIDTH]."""
    return torch.linspace(-HALF_WIDTH, HALF_WIDTH, num_points, dtype=torch.float64)


def interpolate(targets: Targets, x: Tensor) -> Tensor:
    """Interpolate a function on the line linearly at any x; constant beyond the ends."""
    last = len(targets) - 1
    position = ((x + HALF_WIDTH) * (last / (2 * HALF_WIDTH))).clamp(0, last - 1e-9)
    below = position.long()
    return torch.lerp(targets[below], targets[below + 1], position - below)


def levels(schedule: NoiseSchedule, t: int) -> tuple[float, float]:
    """Return alpha and sigma at a timestep."""
    return schedule.alphas[t + 1].item(), schedule.sigmas[t + 1].item()


def posterior(x_t: Targets, level: tuple[float, float], num_nodes: int) -> tuple[Values, Values]:
    """Return possible values of x_0, with their probabilities, for each point x_t.

    Given a component x_0 is Gaussian; even nodes out to 4.5 deviations stand for it.
    """
    alpha, sigma = level
    offset = x_t[:, None] - alpha * LINE.means[:, 0]
    variance = (alpha * LINE.deviations).square() + sigma**2
    component = (LINE.weights.log() - offset.square() / variance / 2 - variance.log() / 2).softmax(
        1
    )
    centre = LINE.means[:, 0] + alpha * LINE.deviations.square() / variance * offset
    width = LINE.deviations * sigma / variance.sqrt()

    z = torch.linspace(-4.5, 4.5, num_nodes, dtype=torch.float64)
    x_0 = centre[..., None] + width[:, None] * z
    probability = component[..., None] * (-z.square() / 2).softmax(0)
    return x_0.flatten(1), probability.flatten(1)


def huber_minimiser(values: Values, probability: Values, c: float) -> Targets:
    """Return the point of least expected pseudo-Huber distance, by bisection on its slope."""
    values, probability = values.float(), probability.float()
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    for _ in range(16):
        middle = (low + high) / 2
        gap = middle - values
        slope = gap * torch.rsqrt(gap * gap + c * c)
        too_low = torch.linalg.vecdot(probability, slope)[:, None] < 0
        low, high = torch.where(too_low, middle, low), torch.where(too_low, high, middle)
    return ((low + high) / 2)[:, 0].double()


def noised_density(x_t: Targets, level: tuple[float, float]) -> Targets:
    """Return the density of noised data, up to a factor."""
    alpha, sigma = level
    variance = (alpha * LINE.deviations).square() + sigma**2
    offset = x_t[:, None] - alpha * LINE.means[:, 0]
    return (LINE.weights / variance.sqrt() * (-offset.square() / variance / 2).exp()).sum(1)

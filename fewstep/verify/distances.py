"""How far samples are from the truth: from the same noise, or as distributions; over seeds."""

import math
import statistics
from collections.abc import Sequence

import torch

from fewstep.evaluation.intervals import Interval
from fewstep.types import Latents

T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Student's t with one degree of freedom fewer than there are values."""


def same_noise(samples: Latents, truth: Latents) -> float:
    """Return the root mean square distance between samples that start from the same noise."""
    return (samples - truth).flatten(1).square().sum(1).mean().sqrt().item()


def energy_distance(samples: Latents, truth: Latents) -> float:
    """Return 2 E|X - Y| - E|X - X'| - E|Y - Y'|: 0 on average if both have one distribution.

    Unbiased, so that it may fall a little below 0.

    Source: Székely & Rizzo 2013 (Energy statistics), the two-sample energy distance.
    """

    def within(points: Latents) -> float:
        return torch.cdist(points, points).sum().item() / (len(points) * (len(points) - 1))

    return 2 * torch.cdist(samples, truth).mean().item() - within(samples) - within(truth)


def over_seeds(values: Sequence[float]) -> Interval:
    """Return the mean of a value over 2 to 10 trainings with its 95 % interval (Student's t)."""
    count, middle = len(values), statistics.fmean(values)
    reach = T_975[count] * statistics.stdev(values) / math.sqrt(count)
    return Interval(middle, middle - reach, middle + reach, count)

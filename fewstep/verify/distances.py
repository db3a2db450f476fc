"""How far samples are from the truth: from the same noise, or as distributions."""

import torch

from fewstep.types import Latents


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

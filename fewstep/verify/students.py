"""Small networks in place of Stable Diffusion: one MLP a seed, all seeds side by side."""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.diffusion.prediction import Prediction, from_epsilon
from fewstep.diffusion.random import Draw
from fewstep.diffusion.schedule import NoiseSchedule
from fewstep.types import Conditioning, Latents, PerSample, Timesteps

NUM_WAVES = 4
"""Frequencies of the time embedding."""


class Networks(nn.Module):
    """`num_seeds` multilayer perceptrons in batched matrices; they share nothing but the loop.

    A batch holds as many rows for each seed, the first seed's first.
    """

    def __init__(
        self, num_seeds: int, inputs: int, outputs: int, generator: torch.Generator, width: int = 64
    ) -> None:
        super().__init__()
        sizes = [inputs, width, width, width, outputs]
        self.num_seeds = num_seeds
        self.weights = nn.ParameterList(
            torch.randn(num_seeds, a, b, generator=generator) / math.sqrt(a)
            for a, b in pairwise(sizes)
        )
        self.biases = nn.ParameterList(torch.zeros(num_seeds, 1, size) for size in sizes[1:])

    def forward(self, rows: Tensor) -> Tensor:
        hidden = rows.reshape(self.num_seeds, -1, rows.shape[1])
        *inner, last = zip(self.weights, self.biases, strict=True)
        for weight, bias in inner:
            hidden = F.silu(torch.baddbmm(bias, hidden, weight))
        return torch.baddbmm(last[1], hidden, last[0]).flatten(0, 1)


@dataclass(frozen=True)
class StudentDenoiser:
    """Networks that predict eps from x_t, the time and the label; one of `num_labels`.

    They add to sigma · x_t, the best linear guess for data of unit variance, as much as alpha lets
    through: what is left for them to learn has unit size at every noise level.

    Source: Karras et al. 2022 (EDM), section 5, for the variance-preserving process.
    """

    networks: Networks
    schedule: NoiseSchedule
    num_labels: int

    def __call__(self, x_t: Latents, t: Timesteps, cond: Conditioning) -> Prediction:
        alpha, sigma = self.schedule.levels(t, x_t)
        label = F.one_hot(cond["label"], self.num_labels).to(x_t)
        rows = torch.cat([x_t, self._waves[t + 1].to(x_t), label], dim=1)
        eps = sigma * x_t + alpha * self.networks(rows)
        return from_epsilon(eps, x_t, t, self.schedule)

    @cached_property
    def _waves(self) -> Tensor:
        """The embedding of each timestep: its log noise level, and sines and cosines of it."""
        t = torch.arange(-1, self.schedule.num_train_timesteps)
        log_level = self.schedule.noise_to_signal(t.clamp(min=0)).log()[:, None]
        angles = log_level * torch.arange(1, NUM_WAVES + 1)
        return torch.cat([log_level, angles.sin(), angles.cos()], dim=1)


@dataclass(frozen=True)
class BatchDraw(Draw):
    """One generator for the whole batch, where thousands of tiny samples need no key each."""

    num_samples: int = 0

    def noise_like(self, x: Latents) -> Latents:
        return torch.randn(x.shape, generator=self.generators[0]).to(x)

    def uniform(self) -> PerSample:
        return torch.rand(self.num_samples, generator=self.generators[0])


def num_inputs(dim: int, num_labels: int) -> int:
    """Return the width of a network's rows."""
    return dim + 1 + 2 * NUM_WAVES + num_labels

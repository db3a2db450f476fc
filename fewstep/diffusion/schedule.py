"""Noise levels: how much signal (alpha) and noise (sigma) there is at each timestep."""

import hashlib
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from operator import mul
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from fewstep.types import Latents, PerSample, Timesteps

Levels = Float[Tensor, "batch *ones"]
"""One number a sample, in a shape that broadcasts over latents."""

CLEAN = -1
"""The timestep of clean data: alpha is 1, sigma is 0. Timestep 0 is already a little noisy."""

MOST_TIMESTEPS = 100_000
"""A hundred times as many as any model has; a file that says more would fill the memory."""


def per_sample(value: Tensor, like: Tensor) -> Tensor:
    """Shape one number a sample so that it broadcasts over `like`."""
    return value.reshape(-1, *[1] * (like.dim() - 1))


@dataclass(frozen=True)
class NoiseSchedule:
    """alpha and sigma (square roots; alpha² + sigma² = 1) at CLEAN and at every timestep.

    The tables are fp64 and are looked up at `t + 1`; results are fp32.
    """

    alphas: Float64[Tensor, " levels"]
    sigmas: Float64[Tensor, " levels"]
    digest: str = ""
    """sha256 of alphas_cumprod as little-endian fp64 bytes: the schedule's identity."""

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: Sequence[float]) -> "NoiseSchedule":
        """Build the schedule from diffusers' table, noise increasing with the index.

        Raises:
            ValueError: if a value is outside [0, 1] or the values do not fall strictly.
        """
        table = [1.0, *map(float, alphas_cumprod)]
        falls = all(a > b for a, b in pairwise(table))
        if len(table) < 2 or not falls or table[-1] < 0:
            raise ValueError("alphas_cumprod has to fall strictly from below 1 to 0 or above")
        return cls(
            alphas=torch.tensor([math.sqrt(a) for a in table], dtype=torch.float64),
            sigmas=torch.tensor([math.sqrt(1 - a) for a in table], dtype=torch.float64),
            digest=hashlib.sha256(struct.pack(f"<{len(table) - 1}d", *table[1:])).hexdigest(),
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "NoiseSchedule":
        """Build the schedule from a diffusers scheduler config.

        Raises:
            ValueError: if the config asks for a beta schedule that is not known here.
        """
        betas = _betas(config)
        alphas_cumprod = list(accumulate((1 - beta for beta in betas), mul))
        if config.get("rescale_betas_zero_snr"):
            alphas_cumprod = _zero_terminal_snr(alphas_cumprod)
        return cls.from_alphas_cumprod(alphas_cumprod)

    @property
    def num_train_timesteps(self) -> int:
        """T, the number of noise levels without CLEAN."""
        return len(self.alphas) - 1

    @cached_property
    def ends_in_pure_noise(self) -> bool:
        """Whether the last timestep has no signal left (zero terminal SNR)."""
        return self.alphas[-1].item() == 0

    def to(self, device: torch.device | str) -> "NoiseSchedule":
        """Return the schedule with its tensors on a device."""
        return replace(self, alphas=self.alphas.to(device), sigmas=self.sigmas.to(device))

    def alpha(self, t: Timesteps) -> PerSample:
        """Return alpha at each timestep, in fp32: the factor of x_0 in x_t; 1 at CLEAN."""
        return self.alphas[t + 1].float()

    def sigma(self, t: Timesteps) -> PerSample:
        """Return sigma at each timestep, in fp32: the factor of the noise in x_t; 0 at CLEAN."""
        return self.sigmas[t + 1].float()

    def exact(self, t: Timesteps) -> tuple[PerSample, PerSample]:
        """Return alpha and sigma at `t` in fp64, for differences of levels that lie close."""
        return self.alphas[t + 1], self.sigmas[t + 1]

    def levels(self, t: Timesteps, like: Latents) -> tuple[Levels, Levels]:
        """Return alpha and sigma at `t`, in the dtype of `like` and ready to multiply it."""
        alpha, sigma = self.exact(t)
        return per_sample(alpha, like).to(like.dtype), per_sample(sigma, like).to(like.dtype)

    def noise_to_signal(self, t: Timesteps) -> PerSample:
        """Return sigma / alpha, the noise level of Karras et al. 2022."""
        return (self.sigmas[t + 1] / self.alphas[t + 1]).float()

    def snr(self, t: Timesteps) -> PerSample:
        """Return the signal-to-noise ratio (alpha / sigma)²."""
        return ((self.alphas[t + 1] / self.sigmas[t + 1]) ** 2).float()

    def add_noise(self, x_0: Latents, noise: Latents, t: Timesteps) -> Latents:
        """Diffuse clean latents to timestep `t`.

        Source: Ho et al. 2020 (DDPM), eq. 4.
        """
        alpha, sigma = self.levels(t, x_0)
        return alpha * x_0 + sigma * noise


def _betas(config: Mapping[str, Any]) -> list[float]:
    """Return beta at every timestep, in Python's floats so that the digest is portable."""
    if config.get("trained_betas") is not None:
        return [float(beta) for beta in config["trained_betas"]]
    num = config["num_train_timesteps"]
    if not isinstance(num, int) or not 1 < num <= MOST_TIMESTEPS:
        raise ValueError(
            f"num_train_timesteps is {num!r} in the scheduler config; use 2 to {MOST_TIMESTEPS}"
        )
    kind = config["beta_schedule"]
    if kind == "squaredcos_cap_v2":
        return [min(1 - _squared_cos((i + 1) / num) / _squared_cos(i / num), 0.999)
                for i in range(num)]  # fmt: skip
    first, last = config["beta_start"], config["beta_end"]
    if kind == "linear":
        return [first + (last - first) * i / (num - 1) for i in range(num)]
    if kind == "scaled_linear":
        first, last = math.sqrt(first), math.sqrt(last)
        roots = [first + (last - first) * i / (num - 1) for i in range(num)]
        return [root * root for root in roots]
    known = "linear, scaled_linear, squaredcos_cap_v2"
    raise ValueError(f"unknown beta_schedule {kind!r} in the scheduler config; known: {known}")


def _squared_cos(progress: float) -> float:
    """Source: Nichol & Dhariwal 2021, eq. 17."""
    return math.cos((progress + 0.008) / 1.008 * math.pi / 2) ** 2


def _zero_terminal_snr(alphas_cumprod: Sequence[float]) -> list[float]:
    """Shift and scale so that the last timestep is pure noise and the first is kept.

    Source: Lin et al. 2023 (Common Diffusion Noise Schedules), algorithm 1.
    """
    roots = [math.sqrt(value) for value in alphas_cumprod]
    scale = roots[0] / (roots[0] - roots[-1])
    return [((root - roots[-1]) * scale) ** 2 for root in roots]

"""What the bench measures on: two mixtures of our own, Stable Diffusion's schedule, the flows."""

from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from fewstep.diffusion.guidance import guided
from fewstep.diffusion.prediction import Prediction
from fewstep.diffusion.schedule import CLEAN, NoiseSchedule
from fewstep.types import Conditioning, Denoiser, Latents, Timesteps
from fewstep.verify.exact_flow import ExactFlow
from fewstep.verify.mixture import Mixture, MixtureDenoiser

SCHEDULE = NoiseSchedule.from_config(
    {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "num_train_timesteps": 1000,
    }
)
"""Stable Diffusion's."""

TOP = SCHEDULE.num_train_timesteps - 1
"""The noisiest timestep, where every sampler starts."""

fp64 = partial(torch.tensor, dtype=torch.float64)

LINE = Mixture(
    means=fp64([[-1.2], [0.1], [1.0]]),
    deviations=fp64([0.15] * 3),
    weights=fp64([0.5, 0.2, 0.3]),
    classes=torch.tensor([0, 0, 0]),
)
"""One dimension, where the fixed point of every objective can be computed."""

PLANE = Mixture(
    means=fp64([[-1.5, -0.6], [0.9, 1.2], [0.2, -1.4], [-0.5, 1.1], [1.6, -0.3], [-0.2, 0.1]]),
    deviations=fp64([0.16, 0.22, 0.14, 0.20, 0.18, 0.12]),
    weights=fp64([0.22, 0.18, 0.15, 0.17, 0.18, 0.10]),
    classes=torch.tensor([0, 0, 0, 1, 1, 1]),
)
"""Two dimensions and two classes that surround each other, so that guidance bends the paths."""


def denoiser_on(
    schedule: NoiseSchedule, mixture: Mixture = PLANE, guidance_scale: float = 1.0
) -> Denoiser[Prediction]:
    """Return the mixture's exact denoiser on a schedule, guided."""
    exact = MixtureDenoiser(mixture, schedule)
    return guided(exact, mixture.unconditional, guidance_scale)


def exact_flow(
    mixture: Mixture = PLANE, guidance_scale: float = 1.0, schedule: NoiseSchedule = SCHEDULE
) -> ExactFlow:
    """Return the flow map of the mixture's (guided) denoiser."""
    on = partial(denoiser_on, mixture=mixture, guidance_scale=guidance_scale)
    return ExactFlow(on, schedule, detail=mixture.deviations.min().item())


def start(
    label: Int[Tensor, " batch"], generator: torch.Generator, mixture: Mixture = PLANE
) -> tuple[Latents, Conditioning]:
    """Return the noise that samplers start from, in fp64, one point for each label."""
    noise = torch.randn(len(label), mixture.dim, generator=generator)
    return noise.double(), {"label": label}


def to_clean(flow: ExactFlow, x: Latents, cond: Conditioning) -> Latents:
    """Return where the flow takes starting noise: the true samples."""
    top = flow.schedule.num_train_timesteps - 1
    return flow.move(x, everywhere(top, x), everywhere(CLEAN, x), cond)


def any_class(num_samples: int, mixture: Mixture = PLANE) -> Int[Tensor, " batch"]:
    """Return the labels that leave the class open."""
    return torch.full((num_samples,), mixture.num_classes)


def every_class(num_samples: int, mixture: Mixture = PLANE) -> Int[Tensor, " batch"]:
    """Return the classes in turn."""
    return torch.arange(num_samples) % mixture.num_classes


def everywhere(t: int, x: Latents) -> Timesteps:
    """Return the timestep `t` for every sample of `x`."""
    return torch.full((len(x),), t)

"""What latents tell without any other network: their spread, their mean, their distribution."""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn.functional import adaptive_avg_pool2d

from fewstep.evaluation.intervals import Values
from fewstep.evaluation.metrics.base import Metric
from fewstep.evaluation.metrics.frechet import frechet_paired
from fewstep.evaluation.metrics.same_noise import rmse

POOLED_SIDE = 4


def pooled(latents: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the means of each channel over a grid of 4 x 4 cells, [n, channels * 16]."""
    return adaptive_avg_pool2d(torch.from_numpy(latents), POOLED_SIDE).flatten(1).numpy()


def std_ratio(latents: ArrayLike, teacher: ArrayLike) -> Values:
    """Return each image's spread within a channel over its teacher's, mean over channels."""
    ours, theirs = (np.asarray(side, np.float64).std(axis=(2, 3)) for side in (latents, teacher))
    return (ours / np.maximum(theirs, 1e-12)).mean(axis=1)


def mean_shift(latents: ArrayLike, teacher: ArrayLike) -> Values:
    """Return how far each image's channel means are from its teacher's, RMS over channels."""
    return rmse(*(np.asarray(side, np.float64).mean(axis=(2, 3)) for side in (latents, teacher)))


LATENT_RMSE = Metric(
    rmse,
    "Latent distance",
    "the same distance between latents, before they are decoded",
    "lower",
    of="latents",
    against="teacher",
)
LATENT_STD_RATIO = Metric(
    std_ratio,
    "Latent contrast",
    "spread of each channel of the latents over that of the teacher's from the same noise; below 1 "
    "images are flatter than the teacher's, above it harsher",
    "nearer to 1",
    of="latents",
    against="teacher",
)
LATENT_MEAN_SHIFT = Metric(
    mean_shift,
    "Latent shift",
    "distance of each channel's mean to that of the teacher's from the same noise",
    "lower",
    of="latents",
    against="teacher",
)
LATENT_FRECHET = Metric(
    frechet_paired,
    "Latent Fréchet distance",
    "Fréchet distance to the teacher's own latents, averaged over 4 x 4 cells of each channel; it "
    "falls with the number of images",
    "lower",
    smallest_n=100,
    of="pooled latents",
    against="teacher",
    whole_set=True,
)

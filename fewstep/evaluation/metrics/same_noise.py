"""How far images are from those that the teacher makes from the same noise and prompt.

For deterministic samplers at any number of calls; a stochastic one (CT and CD at several calls)
throws the starting noise away, so that only its one-call images can be compared like this.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.evaluation.intervals import Values
from fewstep.evaluation.metrics.base import Metric


def same_noise_rmse(images: NDArray[np.uint8], teacher: NDArray[np.uint8]) -> Values:
    """Return each image's root mean squared distance to the teacher's, white being 1.

    Raises:
        ValueError: if they are not uint8 images, as many and as large as the teacher's.
    """
    for given in (images, teacher):
        if given.dtype != np.uint8:
            raise ValueError(f"images are uint8 (0 to 255), not {given.dtype}")
    return rmse(images, teacher) / 255


def rmse(ours: ArrayLike, theirs: ArrayLike) -> Values:
    """Return the root mean squared distance of each pair: of latents, in their own units."""
    a, b = (np.asarray(side, np.float64) for side in (ours, theirs))
    if a.shape != b.shape or a.ndim < 2:
        raise ValueError(f"{a.shape} cannot be compared in pairs with {b.shape}")
    return np.sqrt(((a - b) ** 2).reshape(len(a), -1).mean(axis=1))


def psnr(images: NDArray[np.uint8], teacher: NDArray[np.uint8]) -> Values:
    """Return each image's peak signal-to-noise ratio to the teacher's, in decibels.

    Where the two are the same it is that of a single grey level in one channel of all pixels.
    """
    least = 1 / 255 / np.sqrt(images[0].size)
    return -20 * np.log10(np.maximum(same_noise_rmse(images, teacher), least))


SAME_NOISE_RMSE = Metric(
    same_noise_rmse,
    "Same-noise distance",
    "root mean squared distance of each image to the teacher's from the same starting noise "
    "and prompt, white being 1; it means nothing for a sampler that adds fresh noise",
    "lower",
    against="teacher",
)
SAME_NOISE_RMSE_UNGUIDED = Metric(
    same_noise_rmse,
    "Same-noise distance, unguided",
    "the same distance to the image of the teacher without guidance, for students that "
    "learnt from data alone",
    "lower",
    against="unguided teacher",
)
SAME_NOISE_PSNR = Metric(
    psnr,
    "Same-noise PSNR",
    "the same distance in decibels, averaged over images",
    "higher",
    ".1f",
    unit=" dB",
    against="teacher",
)

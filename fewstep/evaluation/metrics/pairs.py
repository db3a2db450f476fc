"""An image beside one other thing: the teacher's from the same noise and prompt, or its prompt.

Distances to the teacher's image are for deterministic samplers at any NFE; a stochastic one (CT
and CD in several steps) replaces the starting noise, so that only its one-step images compare.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.evaluation.intervals import Values
from fewstep.evaluation.metrics.frechet import checked


def clip_score(images: ArrayLike, prompts: ArrayLike) -> Values:
    """Return the cosine between each image's and its prompt's CLIP embedding.

    Source: Hessel et al. 2021 (CLIPScore), without its factor of 2.5.

    Raises:
        ValueError: if there is not one prompt an image, or an embedding is not finite.
    """
    x, y = checked(images), checked(prompts)
    if x.shape != y.shape:
        raise ValueError(f"{len(x)} images but {len(y)} prompts")
    return (x * y).sum(1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))


def same_noise_rmse(images: NDArray[np.uint8], teacher: NDArray[np.uint8]) -> Values:
    """Return each image's root mean squared distance to the teacher's, white being 1.

    Raises:
        ValueError: if they are not uint8 images, as many and as large as the teacher's.
    """
    for side in (images, teacher):
        if side.dtype != np.uint8:
            raise ValueError(f"images are uint8 (0 to 255), not {side.dtype}")
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


def std_ratio(latents: ArrayLike, teacher: ArrayLike) -> Values:
    """Return each image's spread within a channel over its teacher's, mean over channels."""
    ours, theirs = (np.asarray(side, np.float64).std(axis=(2, 3)) for side in (latents, teacher))
    return (ours / np.maximum(theirs, 1e-12)).mean(axis=1)


def mean_shift(latents: ArrayLike, teacher: ArrayLike) -> Values:
    """Return how far each image's channel means are from its teacher's, RMS over channels."""
    return rmse(*(np.asarray(side, np.float64).mean(axis=(2, 3)) for side in (latents, teacher)))


def pooled(latents: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the means of each channel over a grid of 4 x 4 cells, [n, channels * 16]."""
    import torch  # a report reads metrics without it
    from torch.nn.functional import adaptive_avg_pool2d

    return adaptive_avg_pool2d(torch.from_numpy(latents), 4).flatten(1).numpy()

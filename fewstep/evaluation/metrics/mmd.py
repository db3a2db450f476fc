"""Distances between two sets by the mean discrepancy of a kernel: KID and CMMD."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from fewstep.evaluation.intervals import Values
from fewstep.evaluation.metrics.base import Metric
from fewstep.evaluation.metrics.frechet import Array, checked

Kernel = Callable[[Array, Array], Array]
BLOCK = 2000  # rows of a kernel matrix at a time
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0


def polynomial(x: Array, y: Array) -> Array:
    """Return (x·y / d + 1)³.

    Source: Bińkowski et al. 2018 (KID), section 4.
    """
    return (x @ y.T / x.shape[1] + 1) ** 3


def gaussian(x: Array, y: Array) -> Array:
    """Return exp(-|x - y|² / (2 sigma²)).

    Source: Jayasumana et al. 2024 (CMMD), section 4, sigma = 10.
    """
    squared = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    return np.exp(-np.maximum(squared, 0) / (2 * CMMD_SIGMA**2))


def kid(features: ArrayLike, reference: ArrayLike) -> Values:
    """Return one number an image, whose mean is the unbiased MMD² of all images."""
    return discrepancy(*alike(features, reference), polynomial, unbiased=True)


def cmmd(features: ArrayLike, reference: ArrayLike) -> Values:
    """Return one number an image, whose mean is 1000 times the MMD² of unit CLIP embeddings."""
    x, y = (side / np.linalg.norm(side, axis=1, keepdims=True)
            for side in alike(features, reference))  # fmt: skip
    return CMMD_SCALE * discrepancy(x, y, gaussian, unbiased=False)


def discrepancy(x: Array, y: Array, kernel: Kernel, *, unbiased: bool) -> Values:
    """Return MMD² plus each image's influence on it, so that intervals are those of a mean.

    The reference is taken as fixed. Unbiased, no image is compared with itself.

    Source: Gretton et al. 2012, eq. 3 and 5; Jaeckel 1972 for the influence.
    """
    own, cross = row_means(x, x, kernel, without_self=unbiased), row_means(x, y, kernel)
    real = row_means(y, y, kernel, without_self=unbiased).mean()
    influence = 2 * (own - cross)
    return own.mean() + real - 2 * cross.mean() + influence - influence.mean()


def row_means(x: Array, y: Array, kernel: Kernel, *, without_self: bool = False) -> Values:
    """Return the mean kernel value of each row of x with all rows of y, in bounded memory."""
    sums = np.concatenate(
        [kernel(x[i : i + BLOCK], y).sum(axis=1) for i in range(0, len(x), BLOCK)]
    )
    if not without_self:
        return sums / len(y)
    itself = np.concatenate([np.diagonal(kernel(x[i : i + 100], x[i : i + 100]))
                             for i in range(0, len(x), 100)])  # fmt: skip
    return (sums - itself) / (len(y) - 1)


def alike(features: ArrayLike, reference: ArrayLike) -> tuple[Array, Array]:
    """Return both sets as float64.

    Raises:
        ValueError: if they are not finite, or of different features.
    """
    x, y = checked(features), checked(reference)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{x.shape[1]} features cannot be compared with {y.shape[1]}")
    return x, y


KID = Metric(
    kid,
    "KID",
    "Kernel Inception Distance to the real images, times 1000: unbiased, so its mean does not "
    "depend on the number of images",
    "lower",
    ".2f",
    1000,
    smallest_n=100,
    of="inception",
    against="reference",
    whole_set=True,
)
CMMD = Metric(
    cmmd,
    "CMMD",
    "the same idea in CLIP's embeddings of whole images",
    "lower",
    smallest_n=100,
    of="clip-l14-336",
    against="reference",
    whole_set=True,
)

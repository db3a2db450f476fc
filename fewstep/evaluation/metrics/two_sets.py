"""Other comparisons of sets of features: KID and CMMD, precision and recall, diversity."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike

from fewstep.evaluation.intervals import Values
from fewstep.evaluation.metrics.frechet import Array, checked

BLOCK = 2000  # rows of a matrix of all pairs at a time
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0
NEIGHBOURS = 3


def kid(features: ArrayLike, reference: ArrayLike) -> Values:
    """Return one number an image, whose mean is the unbiased MMD² with kernel (x·y / d + 1)³.

    Source: Bińkowski et al. 2018 (KID), section 4.
    """

    def kernel(x: Array, y: Array) -> Array:
        return (x @ y.T / x.shape[1] + 1) ** 3

    return discrepancy(*both_checked(features, reference), kernel, unbiased=True)


def cmmd(features: ArrayLike, reference: ArrayLike) -> Values:
    """Return one number an image, whose mean is 1000 times the MMD² of unit CLIP embeddings.

    The kernel is exp(-|x - y|² / (2 sigma²)).

    Source: Jayasumana et al. 2024 (CMMD), section 4, sigma = 10.
    """

    def kernel(x: Array, y: Array) -> Array:
        squared = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
        return np.exp(-np.maximum(squared, 0) / (2 * CMMD_SIGMA**2))

    sides = both_checked(features, reference)
    x, y = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
    return CMMD_SCALE * discrepancy(x, y, kernel, unbiased=False)


def discrepancy(
    x: Array, y: Array, kernel: Callable[[Array, Array], Array], *, unbiased: bool
) -> Values:
    """Return MMD² plus each image's influence on it, so that intervals are those of a mean.

    The reference is taken as fixed. Unbiased, no image is compared with itself.

    Source: Gretton et al. 2012, eq. 3 and 5; Jaeckel 1972 for the influence.
    """

    def row_means(x: Array, y: Array, without_self: bool = False) -> Values:
        sums = np.concatenate([kernel(block, y).sum(axis=1) for block in blocks(x)])
        if not without_self:
            return sums / len(y)
        itself = [np.diagonal(kernel(block, block)) for block in blocks(x, 100)]
        return (sums - np.concatenate(itself)) / (len(y) - 1)

    own, cross = row_means(x, x, unbiased), row_means(x, y)
    real = row_means(y, y, unbiased).mean()
    influence = 2 * (own - cross)
    return own.mean() + real - 2 * cross.mean() + influence - influence.mean()


def precision(features: ArrayLike, reference: ArrayLike) -> Values:
    """Return 1 for each image that lies among the real ones, else 0.

    That is where it is as near to some real image as that one's third neighbour is.

    Source: Kynkäänniemi et al. 2019, eq. 1 and 2, with k = 3.
    """
    x, y = both_checked(features, reference)
    if len(y) <= NEIGHBOURS:
        raise ValueError(f"a manifold needs more than {NEIGHBOURS} images, not {len(y)}")
    radii = np.concatenate([
        np.partition(squared_distances(block, y), NEIGHBOURS, axis=1)[:, NEIGHBOURS]
        for block in blocks(y)
    ])  # fmt: skip
    inside = [(squared_distances(block, y) <= radii).any(axis=1) for block in blocks(x)]
    return np.concatenate(inside).astype(np.float64)


def recall(features: ArrayLike, reference: ArrayLike) -> Values:
    """Return 1 for each real image that lies among the images, else 0."""
    return precision(reference, features)


def pairwise_distance(features: ArrayLike) -> Values:
    """Return for each prompt the mean distance between two of its images.

    `features` are [prompts, images, d].

    Raises:
        ValueError: if there are fewer than two images a prompt, or features are not finite.
    """
    prompts = np.asarray(features)
    if prompts.ndim != 3 or prompts.shape[1] < 2:
        raise ValueError(f"features are [prompts, two images or more, d], not {prompts.shape}")
    apart = np.triu_indices(prompts.shape[1], 1)
    squared = [squared_distances(x, x)[apart] for x in map(checked, prompts)]
    return np.sqrt(squared).mean(axis=1)


def squared_distances(x: Array, y: Array) -> Array:
    """Return squared distances; from a point to itself 0 and not what rounding leaves."""
    scale = (x**2).sum(1)[:, None] + (y**2).sum(1)
    distances = scale - 2 * x @ y.T
    return np.where(distances < 1e-12 * scale, 0, distances)


def blocks(x: Array, size: int = BLOCK) -> Iterator[Array]:
    """Yield the rows, so many at a time."""
    return (x[i : i + size] for i in range(0, len(x), size))


def both_checked(features: ArrayLike, reference: ArrayLike) -> tuple[Array, Array]:
    """Return both sets as float64.

    Raises:
        ValueError: if they are not finite, or of different features.
    """
    x, y = checked(features), checked(reference)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{x.shape[1]} features cannot be compared with {y.shape[1]}")
    return x, y

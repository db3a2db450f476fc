"""Precision and recall of a set of images: is each inside the other set's manifold?"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.evaluation.intervals import Values, proportion
from fewstep.evaluation.metrics.base import Metric
from fewstep.evaluation.metrics.frechet import Array
from fewstep.evaluation.metrics.mmd import BLOCK, alike

NEIGHBOURS = 3


def precision(features: ArrayLike, reference: ArrayLike) -> Values:
    """Return 1 for each image that lies among the real ones, else 0.

    Source: Kynkäänniemi et al. 2019, eq. 1 and 2, with k = 3.
    """
    x, y = alike(features, reference)
    return inside(x, y).astype(np.float64)


def recall(features: ArrayLike, reference: ArrayLike) -> Values:
    """Return 1 for each real image that lies among the images, else 0."""
    x, y = alike(features, reference)
    return inside(y, x).astype(np.float64)


def inside(points: Array, others: Array) -> NDArray[np.bool_]:
    """Tell which points are as near to some other point as its own third neighbour is."""
    if len(others) <= NEIGHBOURS:
        raise ValueError(f"a manifold needs more than {NEIGHBOURS} images, not {len(others)}")
    radii = np.concatenate([
        np.partition(squared(others[i : i + BLOCK], others), NEIGHBOURS, axis=1)[:, NEIGHBOURS]
        for i in range(0, len(others), BLOCK)
    ])  # fmt: skip
    return np.concatenate([
        (squared(points[i : i + BLOCK], others) <= radii).any(axis=1)
        for i in range(0, len(points), BLOCK)
    ])  # fmt: skip


def squared(x: Array, y: Array) -> Array:
    """Return squared distances; from a point to itself 0 and not what rounding leaves."""
    distances = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    scale = (x**2).sum(1)[:, None] + (y**2).sum(1)
    return np.where(distances < 1e-12 * scale, 0, distances)


PRECISION = Metric(
    precision,
    "Precision",
    "share of images that lie among the real ones, in Inception's features",
    "higher",
    smallest_n=100,
    interval=proportion,
    of="inception",
    against="reference",
    whole_set=True,
)
RECALL = Metric(
    recall,
    "Recall",
    "share of real images that lie among these, in Inception's features; n counts the real ones",
    "higher",
    smallest_n=100,
    interval=proportion,
    of="inception",
    against="reference",
    whole_set=True,
)

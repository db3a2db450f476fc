"""The Fréchet distance between the Gaussians of two sets of features, safe in its last digits."""

from dataclasses import dataclass
from functools import reduce
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.evaluation.metrics.base import Metric

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Count, mean and centred second moment of features; merges over batches and processes.

    Source: Chan, Golub & LeVeque 1983 (the pairwise update, for vectors).
    """

    n: int
    mean: Array
    m2: Array
    """Sum over images of (x - mean)(x - mean)ᵀ, `[d, d]`."""

    @classmethod
    def of(cls, features: ArrayLike) -> Self:
        """Raises ValueError if features are not `[n, d]` or not finite."""
        x = checked(features)
        centred = x - x.mean(axis=0)
        return cls(len(x), x.mean(axis=0), centred.T @ centred)

    def __add__(self, other: Self) -> Self:
        n = self.n + other.n
        step = other.mean - self.mean
        m2 = self.m2 + other.m2 + np.outer(step, step) * (self.n * other.n / n)
        return type(self)(n, self.mean + step * (other.n / n), m2)


@dataclass(frozen=True)
class Gaussian:
    """A mean and a factor L `[d, r]` of the covariance, S = L·Lᵀ."""

    mean: Array
    factor: Array

    @classmethod
    def from_moments(cls, moments: Moments) -> Self:
        """Raises ValueError if there are fewer than two images."""
        if moments.n < 2:
            raise ValueError("a covariance needs two images or more")
        eigenvalues, vectors = np.linalg.eigh(moments.m2 / (moments.n - 1))
        rounding = eigenvalues.max() * len(eigenvalues) * np.finfo(np.float64).eps
        return cls(
            moments.mean, vectors * np.sqrt(np.where(eigenvalues > rounding, eigenvalues, 0))
        )

    @classmethod
    def fit(cls, features: ArrayLike) -> Self:
        """Fit to features `[n, d]`; where n ≤ d the centred features are the factor themselves."""
        x = checked(features)
        if len(x) > x.shape[1] or len(x) < 2:
            return cls.from_moments(Moments.of(x))
        return cls(x.mean(axis=0), (x - x.mean(axis=0)).T / np.sqrt(len(x) - 1))


def merge(*parts: Moments) -> Moments:
    """Merge the moments of batches or processes into those of one pass over all."""
    return reduce(Moments.__add__, parts)


def distance(a: Gaussian, b: Gaussian) -> float:
    """Return |m1 - m2|² + tr(S1 + S2 - 2·sqrt(S1·S2)).

    tr sqrt(S1·S2) is the sum of the singular values of L1ᵀ·L2: no root of an unsymmetric matrix,
    no complex part, no eps, and the distance of a set to itself is 0 to rounding.

    Source: Dowson & Landau 1982; as a quality measure of images, Heusel et al. 2017.
    """
    overlap = np.linalg.svd(a.factor.T @ b.factor, compute_uv=False).sum()
    spread = (a.factor**2).sum() + (b.factor**2).sum() - 2 * overlap
    return float(((a.mean - b.mean) ** 2).sum() + spread)


def frechet(features: ArrayLike, reference: Gaussian | ArrayLike) -> Array:
    """Return one number an image, whose mean is the Fréchet distance to the reference.

    An image's number is the distance plus what more of that image would add to it (its
    influence), so an interval of the mean, a paired difference and pooling over trainings are those
    of any other metric. That is the bootstrap over images to first order, at the cost of one
    distance and without the bootstrap's bias; the reference is taken as fixed. The distance falls
    with the number of images: compare only at the same n.

    Source: Jaeckel 1972 (infinitesimal jackknife), with the derivative of the Wasserstein distance
    between Gaussians of Rippl, Munk & Sturm 2016.
    """
    x = checked(features)
    a = Gaussian.fit(x)
    b = reference if isinstance(reference, Gaussian) else Gaussian.fit(reference)
    return distance(a, b) + influence(x, a, b)


def frechet_paired(features: ArrayLike, teacher: ArrayLike) -> Array:
    """Return `frechet` between two sets that were generated from the same noises, row by row.

    A row's number counts what more of both of its images would add: what the noises have in
    common moves both sets alike, and leaves the distance where it is.
    """
    x, y = checked(features), checked(teacher)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} images cannot be paired with {len(y)}")
    a, b = Gaussian.fit(x), Gaussian.fit(y)
    return distance(a, b) + influence(x, a, b) + influence(y, b, a)


def influence(x: Array, a: Gaussian, b: Gaussian) -> Array:
    """Return what more of each row of `x`, which `a` was fitted to, would add to the distance."""
    left, overlap, _ = np.linalg.svd(a.factor.T @ b.factor, full_matrices=False)
    centred = x - a.mean
    whitened = centred @ np.linalg.pinv(a.factor, rcond=1e-10).T
    moved = 2 * centred @ (a.mean - b.mean)
    spread = (centred**2).sum(axis=1) - ((whitened @ left) ** 2 * overlap).sum(axis=1)
    return moved + spread - (moved + spread).mean()


def checked(features: ArrayLike) -> Array:
    """Return features as float64 `[n, d]`, or say what is wrong with them."""
    x = np.asarray(features, np.float64)
    if x.ndim != 2:
        raise ValueError(f"features are [images, dimensions], not of shape {x.shape}")
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x)).any(axis=1).sum())
        raise ValueError(f"{bad} of {len(x)} images have features that are not finite")
    return x


FRECHET = Metric(
    frechet,
    "Fréchet distance",
    "distance between the distribution of these images and that of the reference set, in "
    "the features of a small network; it falls with the number of images, so compare "
    "only where n is the same",
    "lower",
    ".2f",
    smallest_n=100,
    of="bundled",
    prepare=Gaussian.fit,
    against="reference",
    whole_set=True,
)
FID = Metric(
    frechet,
    "FID",
    "Fréchet distance to the real images in Inception's features; it falls with the number of "
    "images, so compare only where n is the same",
    "lower",
    ".2f",
    smallest_n=2048,
    of="inception",
    prepare=Gaussian.fit,
    against="reference",
    whole_set=True,
)
FID_TEACHER = Metric(
    frechet_paired,
    "FID to the teacher",
    "the same distance to the teacher's own images at its full number of steps",
    "lower",
    ".2f",
    smallest_n=2048,
    of="inception",
    against="teacher",
    whole_set=True,
)

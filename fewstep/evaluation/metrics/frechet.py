"""The Fréchet distance between the Gaussians of two sets of features, exact to rounding."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Gaussian:
    """A mean [d] and a factor L [d, r] of the covariance, S = L·Lᵀ."""

    mean: Array
    factor: Array

    @classmethod
    def fit(cls, features: ArrayLike) -> Self:
        """Fit to features [n, d]; where n ≤ d the centred features are the factor themselves.

        Raises:
            ValueError: if there are fewer than two images, or features are not finite.
        """
        x = checked(features)
        if len(x) < 2:
            raise ValueError("a covariance needs two images or more")
        mean = x.mean(axis=0)
        centred = x - mean
        if len(x) <= x.shape[1]:
            return cls(mean, centred.T / np.sqrt(len(x) - 1))
        eigenvalues, vectors = np.linalg.eigh(centred.T @ centred / (len(x) - 1))
        rounding = eigenvalues.max() * len(eigenvalues) * np.finfo(np.float64).eps
        return cls(mean, vectors * np.sqrt(np.where(eigenvalues > rounding, eigenvalues, 0)))


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

    An image's number is the distance plus the image's influence on it, so an interval of the
    mean, a paired difference and pooling over trainings are those of any other metric. That is
    the bootstrap over images to first order, without its bias; the reference is taken as fixed.
    The distance falls with the number of images: compare only at the same n.

    Source: Jaeckel 1972 (infinitesimal jackknife), with the derivative of the Wasserstein distance
    between Gaussians of Rippl, Munk & Sturm 2016.
    """
    x = checked(features)
    a = Gaussian.fit(x)
    b = reference if isinstance(reference, Gaussian) else Gaussian.fit(reference)
    return distance(a, b) + influence(x, a, b)


def frechet_paired(features: ArrayLike, teacher: ArrayLike) -> Array:
    """Return `frechet` between two sets that were generated from the same noises, row by row.

    A row's number has the influence of both of its images: what the noises have in common
    moves both sets alike, and does not change the distance.
    """
    x, y = checked(features), checked(teacher)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} images cannot be paired with {len(y)}")
    a, b = Gaussian.fit(x), Gaussian.fit(y)
    return distance(a, b) + influence(x, a, b) + influence(y, b, a)


def influence(x: Array, a: Gaussian, b: Gaussian) -> Array:
    """Return what more weight of each row of `x`, which `a` was fitted to, adds to the distance."""
    left, overlap, _ = np.linalg.svd(a.factor.T @ b.factor, full_matrices=False)
    centred = x - a.mean
    whitened = centred @ np.linalg.pinv(a.factor, rcond=1e-10).T
    moved = 2 * centred @ (a.mean - b.mean)
    spread = (centred**2).sum(axis=1) - ((whitened @ left) ** 2 * overlap).sum(axis=1)
    return moved + spread - (moved + spread).mean()


def checked(features: ArrayLike) -> Array:
    """Return features as float64 [n, d].

    Raises:
        ValueError: if they have another shape, or are not finite.
    """
    x = np.asarray(features, np.float64)
    if x.ndim != 2:
        raise ValueError(f"features are [images, dimensions], not of shape {x.shape}")
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x)).any(axis=1).sum())
        raise ValueError(f"{bad} of {len(x)} images have features that are not finite")
    return x

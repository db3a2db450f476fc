"""95 % intervals of a mean over images, alone and over several trainings.

Every metric gives each image one number whose mean is the metric's value (a Fréchet distance too:
see `fewstep.evaluation.metrics.frechet`), so these few functions serve them all; a difference to
the teacher is the mean of paired differences. Those of images raise ValueError for fewer than two,
and all for one that is not finite.
"""

from dataclasses import dataclass
from math import isfinite, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]
RESAMPLES = 2000
TAILS = (2.5, 97.5)
SMALLEST_N = 5
"""Of fewer values the spread is hardly known, and no interval is given."""
Z = 1.959964  # the normal distribution's 97.5 % point


@dataclass(frozen=True)
class Interval:
    """A measured value, its 95 % interval, and the number of images that it comes from.

    Below SMALLEST_N images it has no ends, whoever computed or wrote them.
    """

    value: float
    low: float | None
    high: float | None
    n: int

    def __post_init__(self):
        if self.n < SMALLEST_N:
            object.__setattr__(self, "low", None)
            object.__setattr__(self, "high", None)
        low, high = self.ends or (self.value, self.value)
        if not all(map(isfinite, (self.value, low, high))) or low > high:
            raise ValueError(f"not an interval: {self.value} in [{low}, {high}]")

    @property
    def ends(self) -> tuple[float, float] | None:
        """The interval, if there is one."""
        return None if self.low is None or self.high is None else (self.low, self.high)


def mean(values: ArrayLike, *, seed: int = 0) -> Interval:
    """Return the mean over images, with a bootstrap interval.

    Source: Efron & Tibshirani 1993, ch. 13 (percentile bootstrap).
    """
    per_image = checked(values, 1)
    low, high = np.percentile(resampled_means(per_image, seed), TAILS)
    return Interval(float(per_image.mean()), float(low), float(high), len(per_image))


def mean_of_few(values: ArrayLike) -> Interval:
    """Return the mean of a few numbers, such as timings, with Student's t interval."""
    few = np.asarray(values, np.float64)
    middle = float(few.mean())
    if len(few) < SMALLEST_N:
        return Interval(middle, None, None, len(few))
    reach = student_t(len(few) - 1) * float(few.std(ddof=1)) / sqrt(len(few))
    return Interval(middle, middle - reach, middle + reach, len(few))


def student_t(freedom: int) -> float:
    """Return the 97.5 % point of Student's t, to 1 % from three degrees of freedom on.

    >>> round(student_t(4), 2), round(student_t(10), 3), round(student_t(100), 3)
    (2.78, 2.228, 1.984)

    Source: Abramowitz & Stegun 1964, 26.7.5.
    """
    terms = (
        (Z**3 + Z) / 4,
        (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96,
        (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384,
        (79 * Z**9 + 776 * Z**7 + 1482 * Z**5 - 1920 * Z**3 - 945 * Z) / 92160,
    )
    return Z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def proportion(holds: ArrayLike) -> Interval:
    """Return the share of images for which something holds, with Wilson's interval.

    Unlike a bootstrap it does not shrink to a point where all images agree. Raises ValueError for
    a value other than 0 and 1.

    Source: Wilson 1927; recommended by Brown, Cai & DasGupta 2001.
    """
    per_image = checked(holds, 1)
    if not np.isin(per_image, (0, 1)).all():
        raise ValueError("a proportion is taken of verdicts (0 or 1); use mean for other numbers")
    n, share = len(per_image), float(per_image.mean())
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    reach = Z / (1 + Z**2 / n) * sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    low, high = max(0.0, middle - reach), min(1.0, middle + reach)
    return Interval(share, min(share, low), max(share, high), n)


def pooled(values: ArrayLike, *, seed: int = 0) -> Interval:
    """Return the mean over trainings and images of values [trainings, images].

    All trainings draw the same images (prompts and noises), and `n` counts these once. The
    interval is for a new training and new images alike: it adds a bootstrap over images to
    the spread between trainings, which from three trainings is hardly known: Student's t.

    Source: Cameron & Miller 2015, section VI (few clusters: t with their number minus one).
    """
    both = checked(values, 2)
    trainings, images = both.shape
    if trainings < 2:
        raise ValueError("one training tells nothing of the next: pool two seeds or more")
    between = both.mean(axis=1).var(ddof=1)
    residual = both - both.mean(axis=0) - both.mean(axis=1, keepdims=True) + both.mean()
    noise = (residual**2).sum() / ((trainings - 1) * (images - 1)) / images
    spread = sqrt(max(between - noise, 0) / trainings)

    draws = resampled_means(both.mean(axis=0), seed)
    draws += spread * np.random.default_rng(seed + 1).standard_t(trainings - 1, len(draws))
    if np.isin(both, (0, 1)).all():  # verdicts, whose mean is a share
        draws = draws.clip(0, 1)
    low, high = np.percentile(draws, TAILS)
    return Interval(float(both.mean()), float(low), float(high), images)


def resampled_means(per_image: Values, seed: int) -> Values:
    """Return the means of `RESAMPLES` samples drawn with replacement, in bounded memory."""
    rng, n = np.random.default_rng(seed), len(per_image)
    at_once = max(1, 4_000_000 // n)
    sizes = [min(at_once, RESAMPLES - start) for start in range(0, RESAMPLES, at_once)]
    return np.concatenate([per_image[rng.integers(0, n, (size, n))].mean(axis=1) for size in sizes])


def checked(values: ArrayLike, dimensions: int) -> Values:
    """Return values as float64, once there are enough and all of them finite."""
    array = np.asarray(values, np.float64)
    if array.ndim != dimensions or array.shape[-1] < 2:
        raise ValueError(f"an interval needs two images or more, not values of {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{(~np.isfinite(array)).sum()} of {array.size} values are not finite")
    return array

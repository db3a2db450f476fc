"""What a metric is: one callable, what it is given and compares with, and how it is written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fewstep.evaluation.intervals import Interval, Values, mean


@dataclass(frozen=True)
class Metric:
    """The meaning of a name in results.json; its line in METRICS is all that it takes.

    `per_image` gets what `of` names, and what `against` names if it compares, and returns one
    number an image; the metric is their mean.
    """

    per_image: Callable[..., Values]
    title: str
    meaning: str
    better: Literal["higher", "lower", "nearer to 1"]
    show: str = ".3f"
    scale: float = 1
    unit: str = ""
    smallest_n: int = 2
    interval: Callable[[Values], Interval] = mean
    of: str = "images"
    """"images" (uint8 [n, H, W, 3]), "latents" ([n, C, h, w]), "pooled latents", "verdicts" of the
    bundled world's parser, features of an extractor (a key of EXTRACTORS) or the values of another
    metric (a key of METRICS); "cost", "trajectory" and "images of a prompt" are made apart, with
    the network itself."""
    against: (
        Literal[
            "prompts", "reference", "teacher", "unguided teacher", "most steps", "full precision"
        ]
        | None
    ) = None
    """The prompts (embedded, where `of` is an extractor), or the same as `of` from the real images,
    the teacher at its full number of steps, the same student at its largest number of steps, or the
    student of the same training without `quantize` and mixed precision."""
    whole_set: bool = False
    """Whether it is called once for all images. Otherwise it is called batch by batch, and beside
    a teacher it is left out where the sampler adds noise, which leaves no pairs to compare."""
    prepare: Callable[[Any], Any] = np.asarray
    """What is computed once of the set that `against` names."""
    parts: Callable[[Any], Mapping[str, Values]] | None = None
    """The numbers of some of the images by the part's name, such as "shape"."""

    def __post_init__(self) -> None:
        if self.against == "reference" and not self.whole_set:
            raise ValueError(f"{self.title}: real images are a set; give whole_set=True")

    def measure(self, *data) -> Interval:
        """Measure and give the interval.

        Raises:
            ValueError: with fewer images than the metric means something at, or bad data.
        """
        values = self.per_image(*data)
        if len(values) < self.smallest_n:
            raise ValueError(
                f"{self.title} needs {self.smallest_n} images or more, not {len(values)}"
            )
        return self.interval(values)


def ratio(ours: Values, theirs: Values) -> Values:
    """Return one number an image, whose mean is the ratio of the two means.

    An image's number is the ratio plus the image's influence on it: the interval of their mean is
    that of the ratio to first order. They are not finite where the teacher's mean is 0.

    Source: Cochran 1977 (Sampling Techniques), section 6.4.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        value = ours.mean() / theirs.mean()
        return value + (ours - value * theirs) / theirs.mean()

"""What a metric is: a name's meaning, what it is measured from, and how it is written."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fewstep.evaluation.intervals import Interval, Values, mean


@dataclass(frozen=True)
class Metric:
    """What a name in results.json means, and how it is measured."""

    per_image: Callable[..., Values]
    """Data → one number an image; the metric is their mean."""
    kind: Literal["prompt", "set", "pair", "cost"]
    """Judges images by their prompts, as a set, against the teacher's, or by what they cost."""
    title: str
    meaning: str
    better: Literal["higher", "lower", "nearer to 1"]
    show: str = ".3f"
    scale: float = 1
    unit: str = ""
    smallest_n: int = 2
    interval: Callable[[Values], Interval] = mean
    features: str = ""
    """The extractor whose features are compared, a key of EXTRACTORS."""
    against: Literal["reference", "teacher"] = "reference"
    """Which set a "set" metric compares with: real images, or the teacher's own."""
    of_reference: Callable[[Any], Any] = np.asarray
    """What is kept of that set's features, so that it is computed once."""

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

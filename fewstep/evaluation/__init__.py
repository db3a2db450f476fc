"""What pictures are worth: one file a metric, and the report that shows them.

A metric gives every picture one number whose mean is its value, so that intervals, comparison with
the teacher and pooling over trainings (`fewstep.evaluation.intervals`) are the same for all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fewstep.evaluation.frechet import frechet
from fewstep.evaluation.intervals import Interval, Values, mean, proportion
from fewstep.evaluation.prompt_accuracy import prompt_accuracy
from fewstep.evaluation.same_noise import rmse, same_noise_rmse


@dataclass(frozen=True)
class Metric:
    """What a name in results.json means, and how it is measured."""

    per_picture: Callable[..., Values]
    """Data → one number a picture; the metric is their mean."""
    kind: Literal["prompt", "set", "pair", "cost"]
    """Judges pictures by their prompts, as a set, against the teacher's, or by what they cost."""
    title: str
    meaning: str
    better: Literal["higher", "lower"]
    show: str = ".3f"
    scale: float = 1
    unit: str = ""
    smallest_n: int = 2
    interval: Callable[[Values], Interval] = mean

    def measure(self, *data) -> Interval:
        """Measure and give the interval.

        Raises:
            ValueError: with fewer pictures than the metric means something at, or bad data.
        """
        values = self.per_picture(*data)
        if len(values) < self.smallest_n:
            raise ValueError(
                f"{self.title} needs {self.smallest_n} pictures or more, not {len(values)}"
            )
        return self.interval(values)


METRICS: dict[str, Metric] = {
    "prompt_accuracy": Metric(
        prompt_accuracy,
        "prompt",
        "Prompt accuracy",
        "share of pictures that show everything their caption says (all counts, shapes, colours, "
        "sizes, relations, the background)",
        "higher",
        ".1f",
        100,
        "%",
        interval=proportion,
    ),
    "prompt_accuracy_difference": Metric(
        np.subtract,
        "pair",
        "Accuracy − teacher’s",
        "prompt accuracy minus the teacher's at its full number of steps, in percentage points, "
        "paired by prompt and starting noise",
        "higher",
        "+.1f",
        100,
        " pts",
    ),
    "prompt_accuracy_difference_unguided": Metric(
        np.subtract,
        "pair",
        "Accuracy − unguided teacher’s",
        "the same difference to the teacher without guidance, which is what a student that learnt "
        "from data alone imitates",
        "higher",
        "+.1f",
        100,
        " pts",
    ),
    "frechet": Metric(
        frechet,
        "set",
        "Fréchet distance",
        "distance between the distribution of these pictures and that of the reference set, in "
        "the features of a small network; it falls with the number of pictures, so compare "
        "only where n is the same",
        "lower",
        ".2f",
        smallest_n=100,
    ),
    "frechet_difference": Metric(
        np.subtract,
        "pair",
        "Fréchet − teacher’s",
        "Fréchet distance minus the teacher's at its full number of steps, paired by prompt and "
        "starting noise",
        "lower",
        "+.2f",
        smallest_n=100,
    ),
    "latent_frechet": Metric(
        frechet,
        "set",
        "Latent Fréchet distance",
        "the Fréchet distance between pooled latents",
        "lower",
        ".3f",
        smallest_n=100,
    ),
    "same_noise_rmse": Metric(
        same_noise_rmse,
        "pair",
        "Same-noise distance",
        "root mean squared distance of each picture to the teacher's from the same starting noise "
        "and prompt, white being 1; it means nothing for a sampler that adds fresh noise",
        "lower",
    ),
    "same_noise_rmse_unguided": Metric(
        same_noise_rmse,
        "pair",
        "Same-noise distance, unguided",
        "the same distance to the picture of the teacher without guidance, for students that "
        "learnt from data alone",
        "lower",
    ),
    "latent_rmse": Metric(
        rmse,
        "pair",
        "Latent distance",
        "the same distance between latents, before they are decoded",
        "lower",
    ),
    "seconds_per_image": Metric(
        np.asarray,
        "cost",
        "Seconds a picture",
        "time for one picture, decoding included, on the machine named here",
        "lower",
        ".3g",
    ),
}
"""Every metric by its name in results.json."""

__all__ = ["METRICS", "Interval", "Metric"]

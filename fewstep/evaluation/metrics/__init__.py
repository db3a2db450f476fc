"""What images are worth: one file a metric, and the report that shows them.

A metric gives every image one number whose mean is its value, so that intervals, comparison with
the teacher and pooling over trainings (`fewstep.evaluation.intervals`) are the same for all.
"""

import numpy as np

from fewstep.evaluation.intervals import Interval
from fewstep.evaluation.metrics.base import Metric
from fewstep.evaluation.metrics.clip_score import CLIP_SCORE
from fewstep.evaluation.metrics.frechet import FID, FID_TEACHER, FRECHET
from fewstep.evaluation.metrics.latents import (
    LATENT_FRECHET,
    LATENT_MEAN_SHIFT,
    LATENT_RMSE,
    LATENT_STD_RATIO,
)
from fewstep.evaluation.metrics.manifold import PRECISION, RECALL
from fewstep.evaluation.metrics.mmd import CMMD, KID
from fewstep.evaluation.metrics.prompt_accuracy import PROMPT_ACCURACY
from fewstep.evaluation.metrics.same_noise import (
    SAME_NOISE_PSNR,
    SAME_NOISE_RMSE,
    SAME_NOISE_RMSE_UNGUIDED,
)
from fewstep.evaluation.metrics.self_consistency import SELF_CONSISTENCY, STEP_AGREEMENT

METRICS: dict[str, Metric] = {
    "prompt_accuracy": PROMPT_ACCURACY,
    "prompt_accuracy_difference": Metric(
        np.subtract,
        "Accuracy − teacher’s",
        "prompt accuracy minus the teacher's at its full number of steps, in percentage points, "
        "paired by prompt and starting noise",
        "higher",
        "+.1f",
        100,
        " pts",
        of="prompt_accuracy",
        against="teacher",
    ),
    "prompt_accuracy_difference_unguided": Metric(
        np.subtract,
        "Accuracy − unguided teacher’s",
        "the same difference to the teacher without guidance, which is what a student that learnt "
        "from data alone imitates",
        "higher",
        "+.1f",
        100,
        " pts",
        of="prompt_accuracy",
        against="unguided teacher",
    ),
    "frechet": FRECHET,
    "frechet_difference": Metric(
        np.subtract,
        "Fréchet − teacher’s",
        "Fréchet distance minus the teacher's at its full number of steps, paired by prompt and "
        "starting noise",
        "lower",
        "+.2f",
        smallest_n=100,
        of="frechet",
        against="teacher",
    ),
    "fid": FID,
    "fid_teacher": FID_TEACHER,
    "kid": KID,
    "cmmd": CMMD,
    "precision": PRECISION,
    "recall": RECALL,
    "clip_score": CLIP_SCORE,
    "clip_score_difference": Metric(
        np.subtract,
        "CLIP score − teacher’s",
        "CLIP score minus the teacher's at its full number of steps, paired by prompt and starting "
        "noise",
        "higher",
        "+.4f",
        of="clip_score",
        against="teacher",
    ),
    "same_noise_rmse": SAME_NOISE_RMSE,
    "same_noise_rmse_unguided": SAME_NOISE_RMSE_UNGUIDED,
    "same_noise_psnr": SAME_NOISE_PSNR,
    "latent_rmse": LATENT_RMSE,
    "latent_std_ratio": LATENT_STD_RATIO,
    "latent_mean_shift": LATENT_MEAN_SHIFT,
    "latent_frechet": LATENT_FRECHET,
    "self_consistency": SELF_CONSISTENCY,
    "step_agreement": STEP_AGREEMENT,
    "seconds_per_image": Metric(
        np.asarray,
        "Seconds an image",
        "time for one image that is generated alone, decoding included, on the machine named here",
        "lower",
        "#.3g",
        of="cost",
    ),
    "peak_memory": Metric(
        np.asarray,
        "Peak memory",
        "the most memory of the GPU that generating used, networks included",
        "lower",
        ".2f",
        1e-9,
        " GB",
        of="cost",
    ),
}
"""Every metric by its name in results.json."""

__all__ = ["METRICS", "Interval", "Metric"]

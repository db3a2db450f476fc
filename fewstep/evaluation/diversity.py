"""How much the images of one prompt differ: a student that has lost modes repeats itself.

These images are made beside those that all other metrics share, which are one a prompt.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fewstep.evaluation.extraction import FeatureExtraction
from fewstep.evaluation.intervals import Values
from fewstep.evaluation.metrics.two_sets import pairwise_distance
from fewstep.evaluation.models import EvaluatedModel
from fewstep.evaluation.prompts import EvaluationInputs
from fewstep.evaluation.samples import SampleCache

NUM_IMAGES = 8
SHARE = 25
"""Of so many prompts one has several images."""
SEED = 1
"""Other noise than that of the one image a prompt."""


def images_of_prompts(
    models: Sequence[EvaluatedModel], out: Path, inputs: EvaluationInputs, resolution: int
) -> SampleCache:
    """Return where `NUM_IMAGES` images of each of the first prompts are kept, in order."""
    chosen = inputs.prompts[: max(2, len(inputs.prompts) // SHARE)]
    prompts = [prompt for prompt in chosen for _ in range(NUM_IMAGES)]
    folder = out / "images-of-prompts"
    return SampleCache(models, folder, prompts, resolution, SEED, inputs.protocol.side)


def diversity(
    model: EvaluatedModel, repeated: SampleCache, extraction: FeatureExtraction
) -> Values:
    """Return each prompt's mean distance between two of its images, in the bundled features."""
    features = np.concatenate([
        extraction.of("bundled", repeated.read(model, numbers), numbers)
        for numbers in repeated.batches
    ])  # fmt: skip
    return pairwise_distance(features.reshape(-1, NUM_IMAGES, features.shape[-1]))

"""How well images fit their prompts, in CLIP's common space of both."""

import numpy as np
from numpy.typing import ArrayLike

from fewstep.evaluation.intervals import Values
from fewstep.evaluation.metrics.base import Metric
from fewstep.evaluation.metrics.frechet import checked


def clip_score(images: ArrayLike, prompts: ArrayLike) -> Values:
    """Return the cosine between each image's and its prompt's embedding.

    Source: Hessel et al. 2021 (CLIPScore), without its factor of 2.5.

    Raises:
        ValueError: if there is not one prompt an image, or an embedding is not finite.
    """
    x, y = checked(images), checked(prompts)
    if x.shape != y.shape:
        raise ValueError(f"{len(x)} images but {len(y)} prompts")
    return (x * y).sum(1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))


CLIP_SCORE = Metric(
    clip_score,
    "CLIP score",
    "cosine between the CLIP embeddings of image and prompt; only numbers of one backbone may be "
    "compared, and this one is ViT-L/14",
    "higher",
    ".4f",
    of="clip-l14",
    against="prompts",
)

"""How often images of the bundled world show what their captions say."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fewstep.evaluation.intervals import Values
from fewstep.world.claims import check_claims
from fewstep.world.parser import read
from fewstep.world.sentences import claims

Verdict = dict[str, bool]
"""For each kind of claim that a caption makes (shape, colour, count, …) whether it holds."""


def verdicts(images: Iterable[NDArray[np.uint8]], captions: Sequence[str]) -> list[Verdict]:
    """Parse every image and compare it with its caption.

    Raises:
        ValueError: if there is not one caption an image, or one that this world cannot read.
    """
    images = list(images)
    if len(images) != len(captions):
        raise ValueError(f"{len(images)} images but {len(captions)} captions")
    expected = [claims(caption) for caption in captions]
    return [check_claims(claim, read(image)) for claim, image in zip(expected, images, strict=True)]


def all_right(checked: Sequence[Verdict]) -> Values:
    """Return one number an image: 1 where every claim of its caption holds, else 0."""
    return np.array([all(verdict.values()) for verdict in checked], np.float64)


def by_attribute(checked: Sequence[Verdict]) -> dict[str, Values]:
    """Return for each kind of claim one number an image whose caption makes it: 1 where it holds.

    Kinds that fewer than two captions claim are left out.
    """
    kinds = dict.fromkeys(kind for verdict in checked for kind in verdict)
    held = {kind: [v[kind] for v in checked if kind in v] for kind in kinds}
    return {kind: np.array(values, np.float64) for kind, values in held.items() if len(values) > 1}

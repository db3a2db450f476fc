"""How often images of the bundled world show what their captions say."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fewstep.evaluation.intervals import Values, proportion
from fewstep.evaluation.metrics.base import Metric
from fewstep.world.captions import claims, judge
from fewstep.world.parser import read

Verdict = dict[str, bool]
"""For each kind of claim that a caption makes (shape, colour, count, …) whether it holds."""


def verdicts(images: Iterable[NDArray[np.uint8]], captions: Sequence[str]) -> list[Verdict]:
    """Read every image and judge its caption by what is seen.

    Raises:
        ValueError: if there is not one caption an image, or one that this world cannot read.
    """
    seen = list(images)
    if len(seen) != len(captions):
        raise ValueError(f"{len(seen)} images but {len(captions)} captions")
    said = [claims(caption) for caption in captions]
    return [judge(claim, read(image)) for claim, image in zip(said, seen, strict=True)]


def all_right(judged: Sequence[Verdict]) -> Values:
    """Return one number an image: 1 where all that its caption says is right, else 0."""
    return np.array([all(verdict.values()) for verdict in judged], np.float64)


def by_attribute(judged: Sequence[Verdict]) -> dict[str, Values]:
    """Return for each kind of claim one number an image whose caption makes it: 1 where it holds.

    Kinds that fewer than two captions claim are left out.
    """
    kinds = dict.fromkeys(kind for verdict in judged for kind in verdict)
    told = {kind: [v[kind] for v in judged if kind in v] for kind in kinds}
    return {kind: np.array(held, np.float64) for kind, held in told.items() if len(held) > 1}


PROMPT_ACCURACY = Metric(
    all_right,
    "Prompt accuracy",
    "share of images that show everything their caption says (all counts, shapes, colours, "
    "sizes, relations, the background)",
    "higher",
    ".1f",
    100,
    "%",
    interval=proportion,
    of="verdicts",
    whole_set=True,
    parts=by_attribute,
)

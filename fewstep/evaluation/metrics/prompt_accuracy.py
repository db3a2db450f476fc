"""How often pictures of the bundled world show what their captions say."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fewstep.evaluation.intervals import Values, proportion
from fewstep.evaluation.metrics.base import Metric
from fewstep.world.captions import claims, judge
from fewstep.world.parser import read

Verdict = dict[str, bool]
"""For each kind of claim that a caption makes (shape, colour, count, …) whether it holds."""


def verdicts(pictures: Iterable[NDArray[np.uint8]], captions: Sequence[str]) -> list[Verdict]:
    """Read every picture and judge its caption by what is seen.

    Raises:
        ValueError: if there is not one caption a picture, or one that this world cannot read.
    """
    seen = list(pictures)
    if len(seen) != len(captions):
        raise ValueError(f"{len(seen)} pictures but {len(captions)} captions")
    said = [claims(caption) for caption in captions]
    return [judge(claim, read(picture)) for claim, picture in zip(said, seen, strict=True)]


def all_right(judged: Sequence[Verdict]) -> Values:
    """Return one number a picture: 1 where all that its caption says is right, else 0."""
    return np.array([all(verdict.values()) for verdict in judged], np.float64)


def prompt_accuracy(pictures: Iterable[NDArray[np.uint8]], captions: Sequence[str]) -> Values:
    """Judge pictures `[n, 64, 64, 3]` and return `all_right` of the verdicts."""
    return all_right(verdicts(pictures, captions))


def by_attribute(judged: Sequence[Verdict]) -> dict[str, Values]:
    """Return for each kind of claim one number a picture whose caption makes it: 1 where it holds.

    Kinds that fewer than two captions claim are left out.
    """
    kinds = dict.fromkeys(kind for verdict in judged for kind in verdict)
    told = {kind: [v[kind] for v in judged if kind in v] for kind in kinds}
    return {kind: np.array(held, np.float64) for kind, held in told.items() if len(held) > 1}


PROMPT_ACCURACY = Metric(
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
)

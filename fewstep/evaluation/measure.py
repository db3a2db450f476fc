"""One contestant's images, judged batch by batch: in memory are its numbers, not its images."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewstep.evaluation.generate import Gallery, Made
from fewstep.evaluation.intervals import Values
from fewstep.evaluation.judges import Judges
from fewstep.evaluation.metrics import METRICS
from fewstep.evaluation.metrics.prompt_accuracy import Verdict, all_right
from fewstep.evaluation.models import Contestant
from fewstep.evaluation.timing import Costs

PAIRED = ("prompt_accuracy", "frechet", "clip_score")
"""The metrics whose difference to the teacher's is a metric of its own."""


@dataclass(frozen=True)
class Others:
    """Who a contestant is compared with, image by image.

    `truth` is the teacher at its full number of steps, `plain` the same without guidance, `longest`
    the contestant's own student at its largest number of steps.
    """

    truth: Contestant
    plain: Contestant
    longest: Contestant


@dataclass(frozen=True)
class Measured:
    """One contestant's numbers, one an image, from which intervals and pooled rows are made."""

    contestant: Contestant
    values: dict[str, Values]
    verdicts: list[Verdict]
    costs: Costs
    features: Mapping[str, NDArray[np.float32]]
    """What the networks made of its images; kept of the teacher alone."""


def observe(
    contestant: Contestant,
    others: Others,
    gallery: Gallery,
    judges: Judges,
    teacher: Measured | None,
    costs: Costs,
) -> Measured:
    """Judge a contestant's images, alone and beside the others'; `teacher` is what truth gave."""
    features, pairs = defaultdict(list), defaultdict(list)
    judged: list[Verdict] = []
    for first, own in zip(gallery.starts, gallery.batches(contestant), strict=True):
        for name, part in judges.features(own).items():
            features[name].append(part)
        if judges.reads_scenes:
            prompts = [gallery.prompts[i] for i in gallery.numbers(first)]
            judged += judges.verdicts(own.images, prompts)
        for name, part in beside(contestant, own, others, gallery, first).items():
            pairs[name].append(part)
    whole = {name: np.concatenate(parts) for name, parts in features.items()}
    values = judge(whole, judged, judges, teacher.features if teacher else whole)
    if teacher:
        values |= differences(values, teacher.values, "difference")
    values |= {name: np.concatenate(parts) for name, parts in pairs.items()}
    return Measured(contestant, values, judged, costs, {} if teacher else whole)


def judge(
    features: Mapping[str, NDArray[np.float32]],
    judged: list[Verdict],
    judges: Judges,
    teacher: Mapping[str, NDArray[np.float32]],
) -> dict[str, Values]:
    """Return the protocol's metrics, one number an image each.

    The teacher's distance to itself is left out.
    """
    values: dict[str, Values] = {}
    for name in judges.metrics:
        metric = METRICS[name]
        if name == "prompt_accuracy":
            values[name] = all_right(judged)
        elif metric.against == "prompts":
            values[name] = metric.per_image(features[metric.of], judges.prompt_features)
        elif metric.against == "reference":
            values[name] = metric.per_image(features[metric.of], judges.real[name])
        elif teacher is not features:
            theirs = metric.prepare(teacher[metric.of])
            values[name] = metric.per_image(features[metric.of], theirs)
    return values


def differences(
    mine: Mapping[str, Values], theirs: Mapping[str, Values], ending: str
) -> dict[str, Values]:
    """Return mine minus theirs, paired by prompt and starting noise."""
    named = ((f"{name}_{ending}", name) for name in PAIRED if name in mine)
    return {new: mine[name] - theirs[name] for new, name in named if new in METRICS}


def beside(
    contestant: Contestant, own: Made, others: Others, gallery: Gallery, first: int
) -> dict[str, Values]:
    """Return a batch's distances to those of the others, from the same noise where it counts.

    Where fresh noise is added on the way there is nothing to compare with the teacher.
    """

    def batch(other: Contestant) -> Made:
        return Made.read(gallery.path(other, first))

    def measured(name: str, what: str, other: Made) -> Values:
        return METRICS[name].per_image(getattr(own, what), getattr(other, what))

    values: dict[str, Values] = {}
    if contestant != others.longest:
        values["step_agreement"] = measured("step_agreement", "latents", batch(others.longest))
    if contestant == others.truth or not contestant.keeps_noise:
        return values
    theirs = batch(others.truth)
    for name in ("same_noise_rmse", "same_noise_psnr"):
        values[name] = measured(name, "images", theirs)
    for name in ("latent_rmse", "latent_mean_shift", "latent_std_ratio"):
        values[name] = measured(name, "latents", theirs)
    if not contestant.knows_teacher:
        name = "same_noise_rmse_unguided"
        values[name] = measured(name, "images", batch(others.plain))
    return values

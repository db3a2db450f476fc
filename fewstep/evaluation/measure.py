"""Step 3: from features to numbers, one an image, of every metric and evaluated model."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.progress import Progress

from fewstep.errors import UserError
from fewstep.evaluation.extraction import FeatureExtraction
from fewstep.evaluation.intervals import Interval, Values, pooled
from fewstep.evaluation.metrics import METRICS
from fewstep.evaluation.models import EvaluatedModel
from fewstep.evaluation.prompts import EvaluationInputs
from fewstep.evaluation.results import SEVERAL, Row
from fewstep.evaluation.samples import ImageFolders, SampleCache
from fewstep.evaluation.timing import Costs

Table = dict[EvaluatedModel, dict[str, Values]]
"""For each model the numbers of each metric, one an image."""
MEASURED_APART = ("cost", "trajectory")
"""What is measured with the network itself: see timing.py and consistency.py."""


def choose_metrics(
    inputs: EvaluationInputs,
    num_images: int,
    missing: Mapping[str, str],
    images_alone: bool = False,
) -> tuple[list[str], dict[str, str]]:
    """Return the metrics that can be measured, and why others cannot.

    `missing` are extractors without weights; `images_alone` have no latents and no teacher.

    Raises:
        UserError: if --num-prompts asks for fewer than a metric needs, or nothing can be measured.
    """
    chosen, unavailable = [], {}
    for name in inputs.protocol.metric_names:
        metric = METRICS[name]
        reason = ""
        if metric.of in METRICS:  # the difference of another metric
            if metric.of in chosen and not images_alone:
                chosen.append(name)
            continue
        if images_alone and metric.of in MEASURED_APART:
            reason = "needs the network, not images alone"
        elif images_alone and "latents" in metric.of:
            reason = "needs latents, not images alone"
        elif images_alone and metric.against not in ("reference", "prompts", None):
            reason = "needs the teacher, not images alone"
        elif metric.of in missing:
            reason = missing[metric.of]
        elif metric.against == "reference" and inputs.reference is None:
            reason = f"needs real images, which protocol {inputs.name!r} has not"
        elif not inputs.prompts and (metric.against == "prompts" or metric.of == "verdicts"):
            reason = "needs --prompts FILE, one line an image"
        elif num_images < metric.smallest_n:
            noun = "images" if images_alone else "prompts"
            reason = f"needs {metric.smallest_n} {noun} or more, not {num_images}"
            if not images_alone and inputs.protocol.num_prompts is not None:
                raise UserError(f"--num-prompts is {num_images}; the {metric.title} {reason}")
        if reason:
            unavailable[name] = reason
        else:
            chosen.append(name)
    if not chosen:
        reasons = "; ".join(dict.fromkeys(unavailable.values()))
        raise UserError(f"protocol {inputs.name!r} has no metric for these images: {reasons}")
    return chosen, unavailable


@dataclass(frozen=True)
class Measurement:
    """The metrics `names`, of samples and what is extracted from them.

    `targets` are what metrics compare every model with; `compared_with` returns the model that
    `against` of a metric means for another, see `EvaluationSet.compared_with`.
    """

    names: Sequence[str]
    samples: SampleCache | ImageFolders
    extraction: FeatureExtraction
    targets: Mapping[str, Any]
    compared_with: Callable[[EvaluatedModel, str | None], EvaluatedModel | None]

    def measure(self, models: Sequence[EvaluatedModel], bar: Progress) -> Table:
        """Measure every model; teachers and more steps first, as others are compared with them.

        Raises:
            UserError: naming the model whose features are not finite or do not fit.
        """
        task = bar.add_task("measuring", total=len(models), note="")
        table: Table = {}
        sets: dict[EvaluatedModel, Mapping[str, Any]] = {}
        asked = {METRICS[name].against for name in self.names if METRICS[name].whole_set}
        needed = {self.compared_with(model, against) for model in models for against in asked}
        for model in sorted(models, key=lambda model: (model.method != "teacher", -model.steps)):
            try:
                values, own = self.of_images(model)
                table[model] = values | self.of_sets(model, own, sets)
            except ValueError as error:
                raise UserError(f"{model} cannot be measured: {error}") from error
            if model in needed:
                sets[model] = own
            bar.advance(task)
        for model, values in table.items():
            values |= self.of_differences(model, table)
        return {model: table[model] for model in models}

    def of_images(self, model: EvaluatedModel) -> tuple[dict[str, Values], dict[str, Any]]:
        """Read a model's images once: return metrics of single images, and the data of sets."""
        values, sets = defaultdict(list), defaultdict(list)
        others = self.others(model)
        for numbers in self.samples.batches:
            read = {model: self.samples.read(model, numbers)}
            for what in {METRICS[name].of for name in self.names if METRICS[name].whole_set}:
                sets[what].append(self.extraction.of(what, read[model], numbers))
            for name, other in others.items():
                metric = METRICS[name]
                data = [self.extraction.of(metric.of, read[model], numbers)]
                if metric.against == "prompts":
                    data.append(self.targets[name][numbers.start : numbers.stop])
                elif other:
                    theirs = read.get(other) or read.setdefault(
                        other, self.samples.read(other, numbers)
                    )
                    data.append(self.extraction.of(metric.of, theirs, numbers))
                values[name].append(metric.per_image(*data))
        joined = [
            {name: np.concatenate(p) for name, p in parts.items()} for parts in (values, sets)
        ]
        return joined[0], joined[1]

    def others(self, model: EvaluatedModel) -> dict[str, EvaluatedModel | None]:
        """Return the metrics of single images that a model has, and whom each compares it with.

        After fresh noise there is no image of the teacher's to compare with.
        """
        found: dict[str, EvaluatedModel | None] = {}
        for name in self.names:
            metric = METRICS[name]
            if metric.whole_set or metric.of in METRICS or metric.of in MEASURED_APART:
                continue
            if metric.against in (None, "prompts"):
                found[name] = None
            elif not model.is_deterministic and metric.against != "most steps":
                continue
            elif other := self.compared_with(model, metric.against):
                found[name] = other
        return found

    def of_sets(
        self,
        model: EvaluatedModel,
        own: Mapping[str, Any],
        sets: Mapping[EvaluatedModel, Mapping[str, Any]],
    ) -> dict[str, Values]:
        """Return the metrics of whole sets, with their parts; none of the teacher to itself."""
        values: dict[str, Values] = {}
        for name in self.names:
            metric = METRICS[name]
            if not metric.whole_set:
                continue
            data = [own[metric.of]]
            if name in self.targets:
                data.append(self.targets[name])
            elif metric.against:
                if not (other := self.compared_with(model, metric.against)):
                    continue
                data.append(metric.prepare(sets[other][metric.of]))
            values[name] = metric.per_image(*data)
            if metric.parts:
                parts = metric.parts(*data)
                values |= {f"{name}.{part}": numbers for part, numbers in parts.items()}
        return values

    def of_differences(self, model: EvaluatedModel, table: Table) -> dict[str, Values]:
        """Return the metrics of other metrics' numbers, paired by prompt and starting noise."""
        values: dict[str, Values] = {}
        for name in (name for name in self.names if METRICS[name].of in table[model]):
            metric = METRICS[name]
            if other := self.compared_with(model, metric.against):
                values[name] = metric.per_image(table[model][metric.of], table[other][metric.of])
        return values


def rows(table: Table, costs: Mapping[EvaluatedModel, Costs]) -> tuple[Row, ...]:
    """Return a row for each model, and one for trainings that differ only in their seed."""
    groups: dict[tuple[str, str, int], list[EvaluatedModel]] = defaultdict(list)
    for model in table:
        if model.seed is not None:
            groups[model.method, model.settings, model.steps].append(model)
    several = [group for group in groups.values() if len(group) > 1]
    return tuple(row(group, table, costs) for group in ([[model] for model in table] + several))


def row(
    models: Sequence[EvaluatedModel], table: Table, costs: Mapping[EvaluatedModel, Costs]
) -> Row:
    """Return one row with intervals: of a model, or pooled over trainings with one's costs."""
    first = models[0]
    metrics: dict[str, Interval] = {}
    for name, values in table[first].items():
        if len(models) > 1:
            metrics[name] = pooled(np.stack([table[model][name] for model in models]))
        else:
            metrics[name] = METRICS[name.partition(".")[0]].interval(values)
    source = SEVERAL.join(model.source for model in models)
    seed = first.seed if len(models) == 1 else None
    metrics |= costs.get(first, {})
    return Row(source, first.method, first.steps, first.nfe, seed, metrics)

"""Step 3: from features to the numbers of every metric and model, one an image, and to rows."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from fewstep.console import Steps, TaskProgress
from fewstep.errors import UserError
from fewstep.evaluation.extraction import FeatureExtraction
from fewstep.evaluation.intervals import Interval, Values, pooled
from fewstep.evaluation.metrics import METRICS
from fewstep.evaluation.models import EvaluatedModel
from fewstep.evaluation.prompts import EvaluationInputs
from fewstep.evaluation.results import SEVERAL, Row
from fewstep.evaluation.samples import ImageFolders, SampleCache

Table = dict[EvaluatedModel, dict[str, Values]]
"""For each model the numbers of each metric, one an image."""
Costs = Mapping[EvaluatedModel, Mapping[str, Interval]]
MEASURED_APART = ("cost", "trajectory", "images of a prompt")
"""What is measured with the network itself: see timing.py, consistency.py and diversity.py."""


def choose_metrics(
    inputs: EvaluationInputs, num: int, missing: Mapping[str, str], only_images: bool = False
) -> tuple[list[str], dict[str, str]]:
    """Return the metrics that can be measured of `num` images, and why others cannot.

    `missing` are extractors without weights; with `only_images` there are no latents, no teacher.

    Raises:
        UserError: if --num-prompts is smaller than a metric needs, or nothing can be measured.
    """
    chosen, unavailable = [], {}
    for name in inputs.protocol.metric_names:
        metric = METRICS[name]
        if metric.of in METRICS:  # a difference has the reasons of what it is the difference of
            if metric.of in chosen and not only_images:
                chosen.append(name)
        elif reason := _unmet(name, inputs, missing, only_images):
            unavailable[name] = reason
        elif num >= metric.smallest_n:
            chosen.append(name)
        elif inputs.protocol.num_prompts is None or only_images:
            noun = "images" if only_images else "prompts"
            unavailable[name] = f"needs {metric.smallest_n} {noun} or more, not {num}"
        else:
            raise UserError(
                f"--num-prompts is {num}; the {metric.title} needs {metric.smallest_n} or more"
            )
    if not chosen:
        reasons = "; ".join(dict.fromkeys(unavailable.values()))
        raise UserError(f"protocol {inputs.name!r} has no metric for these images: {reasons}")
    return chosen, unavailable


def _unmet(
    name: str, inputs: EvaluationInputs, missing: Mapping[str, str], only_images: bool
) -> str:
    """Return what a metric needs and does not have, or nothing."""
    of, against = METRICS[name].of, METRICS[name].against
    if only_images and (of in MEASURED_APART or "latents" in of):
        return "needs the network or its latents, and there are only images"
    if only_images and against not in (None, "reference", "prompts"):
        return "needs the teacher's images"
    if against == "reference" and inputs.reference is None:
        return f"needs real images, and protocol {inputs.name!r} has none"
    if not inputs.prompts and (against == "prompts" or of == "verdicts"):
        return "needs --prompts FILE, one line an image"
    return missing.get(of, "")


@dataclass(frozen=True)
class Measurement:
    """The metrics `names` of samples and their features, and why others are `unavailable`.

    `targets` are the prompts or real images that a metric compares all models with.
    """

    inputs: EvaluationInputs
    samples: SampleCache | ImageFolders
    extraction: FeatureExtraction
    names: Sequence[str]
    unavailable: Mapping[str, str]
    targets: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        inputs: EvaluationInputs,
        samples: SampleCache | ImageFolders,
        features: Path,
        weights: Path | None = None,
    ) -> Self:
        """Choose those metrics of a protocol that can be measured of these samples.

        `features` is the folder of stored features, `weights` that of the extractors' weights.

        Raises:
            UserError: if --num-prompts is smaller than a metric needs, there is no metric, or
                weights are damaged.
        """
        extraction = FeatureExtraction.open(inputs, features, weights)
        only_images = isinstance(samples, ImageFolders)
        num = sum(map(len, samples.batches))
        chosen = choose_metrics(inputs, num, extraction.missing, only_images)
        return cls(inputs, samples, extraction, *chosen)

    def describe(self, how: str) -> str:
        """Return all that the numbers depend on; `how` says how images were generated."""
        return self.inputs.describe(how, self.samples.resolution, self.extraction.caches)

    def with_targets(self) -> Self:
        """Read what all models are compared with: prompts and real images.

        Raises:
            UserError: naming a real image that cannot be read.
        """
        targets = self.extraction.targets(self.names, self.inputs.reference)
        return replace(self, targets=targets)

    def measure(self, apart: Table | None = None) -> Steps[Table]:
        """Measure every model: teachers and more steps first, as others are compared with them.

        `apart` are numbers that were measured apart.

        Raises:
            UserError: naming the model whose features are not finite or do not fit.
        """
        models = self.samples.models
        table: Table = {}
        features: dict[EvaluatedModel, Mapping[str, Any]] = {}
        against = {METRICS[name].against for name in self._whole_set}
        kept = {model.compared_with(what) for model in models for what in against}
        ordered = sorted(models, key=lambda model: (model.method != "teacher", -model.steps))
        for done, model in enumerate(ordered, 1):
            try:
                values, features[model] = self.of_batches(model)
                table[model] = values | self.of_sets(model, features) | (apart or {}).get(model, {})
            except ValueError as error:
                raise UserError(f"{model} cannot be measured: {error}") from error
            if model not in kept:
                del features[model]
            yield TaskProgress("measuring", done, len(models))
        for name in (name for name in self.names if METRICS[name].of in METRICS):
            metric = METRICS[name]
            for model in models:  # paired by prompt and starting noise
                other = model.compared_with(metric.against)
                if other and metric.of in table[model]:
                    values = metric.per_image(table[model][metric.of], table[other][metric.of])
                    if np.isfinite(values).all():  # a ratio to nothing is left out
                        table[model][name] = values
        return {model: table[model] for model in models}

    @property
    def _whole_set(self) -> list[str]:
        return [name for name in self.names if METRICS[name].whole_set]

    def of_batches(self, model: EvaluatedModel) -> tuple[dict[str, Values], dict[str, Any]]:
        """Return the metrics of single images, and the features of the whole set for the others.

        Images are read once, a batch at a time: a large set does not fit in memory.
        """
        values, features = defaultdict(list), defaultdict(list)
        others = self._others(model)
        for numbers in self.samples.batches:
            read = {
                who: self.samples.read(who, numbers) for who in {model, *others.values()} if who
            }

            def of(what: str, who: EvaluatedModel) -> Any:
                return self.extraction.of(what, read[who], numbers)  # noqa: B023  called here

            for what in {METRICS[name].of for name in self._whole_set}:
                features[what].append(of(what, model))
            for name, other in others.items():
                metric, data = METRICS[name], [of(METRICS[name].of, model)]
                if other:
                    data.append(of(metric.of, other))
                elif name in self.targets:
                    data.append(self.targets[name][numbers.start : numbers.stop])
                values[name].append(metric.per_image(*data))
        join = np.concatenate
        return {k: join(v) for k, v in values.items()}, {k: join(v) for k, v in features.items()}

    def _others(self, model: EvaluatedModel) -> dict[str, EvaluatedModel | None]:
        """Return the metrics of single images, and which model each compares this one with.

        After fresh noise there is no image of the teacher to compare with.
        """
        found: dict[str, EvaluatedModel | None] = {}
        for name in self.names:
            metric = METRICS[name]
            if metric.whole_set or metric.of in (*METRICS, *MEASURED_APART):
                continue
            if metric.against in (None, "prompts"):
                found[name] = None
            elif model.is_deterministic or metric.against == "most steps":
                other = model.compared_with(metric.against)
                found |= {name: other} if other else {}
        return found

    def of_sets(
        self, model: EvaluatedModel, features: Mapping[EvaluatedModel, Mapping[str, Any]]
    ) -> dict[str, Values]:
        """Return the metrics of whole sets, with their parts; none of a model to itself."""
        values: dict[str, Values] = {}
        for name in self._whole_set:
            metric = METRICS[name]
            data = [features[model][metric.of]]
            if name in self.targets:
                data.append(self.targets[name])
            elif metric.against:
                if (other := model.compared_with(metric.against)) is None:
                    continue
                data.append(metric.prepare(features[other][metric.of]))
            values[name] = metric.per_image(*data)
            parts = metric.parts(*data) if metric.parts else {}
            values |= {f"{name}.{part}": numbers for part, numbers in parts.items()}
        return values


def rows(table: Table, costs: Costs) -> tuple[Row, ...]:
    """Return a row for each model, and a pooled one for trainings that differ in their seed."""
    groups: dict[tuple[str, str, int], list[EvaluatedModel]] = defaultdict(list)
    for model in table:
        if model.seed is not None:
            groups[model.method, model.settings, model.steps].append(model)
    pools = [group for group in groups.values() if len(group) > 1]
    return tuple(row(models, table, costs) for models in [*([model] for model in table), *pools])


def row(models: Sequence[EvaluatedModel], table: Table, costs: Costs) -> Row:
    """Return the row of a model, or of several trainings pooled, with the costs of the first."""
    first = models[0]
    metrics = {
        name: METRICS[name.partition(".")[0]].interval(values)
        if len(models) == 1
        else pooled(np.stack([table[model][name] for model in models]))
        for name, values in table[first].items()
        if all(name in table[model] for model in models)  # where each has what it compares with
    }
    source = SEVERAL.join(model.source for model in models)
    seed = first.seed if len(models) == 1 else None
    metrics |= costs.get(first, {})
    return Row(source, first.method, first.steps, first.nfe, seed, metrics)

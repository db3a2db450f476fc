"""Step 2: from images to what metrics compare, computed once and kept by the images' content."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from rich.progress import Progress

from fewstep.evaluation.features import (
    BUNDLED,
    EXTRACTORS,
    FeatureCache,
    content_key,
    embed_prompts,
    identity_of,
)
from fewstep.evaluation.metrics import METRICS
from fewstep.evaluation.metrics.pairs import pooled
from fewstep.evaluation.metrics.prompt_accuracy import verdicts
from fewstep.evaluation.models import EvaluatedModel
from fewstep.evaluation.prompts import EvaluationInputs, Reference
from fewstep.evaluation.samples import ImageFolders, SampleCache, Samples
from fewstep.evaluation.weights import WeightsMissing
from fewstep.files import kept
from fewstep.images import Images
from fewstep.models.loading import default_device


@dataclass(frozen=True)
class FeatureExtraction:
    """The feature extractors of some metrics, each with its cache in `folder`."""

    prompts: Sequence[str]
    folder: Path
    caches: Mapping[str, FeatureCache]
    missing: Mapping[str, str]
    """Extractors without weights, and how to get them."""
    reads_scenes: bool = False
    """Whether the bundled world's parser compares images with their prompts."""
    weights: Path | None = None

    @classmethod
    def open(cls, inputs: EvaluationInputs, folder: Path, weights: Path | None = None) -> Self:
        """Find the weights of every extractor that a protocol's metrics use.

        Raises:
            UserError: if weights are damaged.
        """
        caches, missing = {}, {}
        wanted = dict.fromkeys(METRICS[name].of for name in inputs.protocol.metric_names)
        for name in (name for name in wanted if name in EXTRACTORS):
            try:
                caches[name] = FeatureCache.of_extractor(name, folder, weights, default_device())
            except WeightsMissing as error:
                missing[name] = str(error)
        reads_scenes = "verdicts" in wanted and bool(inputs.prompts)
        return cls(inputs.prompts, folder, caches, missing, reads_scenes, weights)

    def extract(self, samples: Samples, numbers: range) -> None:
        """Store the features of a batch, and the parser's verdicts."""
        for what in (*self.caches, *(["verdicts"] if self.reads_scenes else [])):
            self.of(what, samples, numbers)

    def of(self, what: str, samples: Samples, numbers: range) -> Any:
        """Return what `of` of a metric names, for a batch of images with these numbers."""
        if what in ("images", "latents"):
            return getattr(samples, what)
        if what == "pooled latents":
            return pooled(samples.latents)  # type: ignore[arg-type]
        if what == "verdicts":
            return self._verdicts(samples.images, self.prompts[numbers.start : numbers.stop])
        return self.caches[what].of(samples.images)

    def targets(self, names: Sequence[str], reference: Reference | None) -> dict[str, Any]:
        """Return for each metric the prompts or real images that it compares every model with."""
        found = {}
        for name in names:
            metric = METRICS[name]
            if metric.against == "prompts":
                found[name] = self._prompts(metric.of)
            elif metric.against == "reference" and reference:
                features = self.caches[metric.of].of_set(reference.identity, reference.batches)
                found[name] = metric.prepare(features)
        return found

    def _prompts(self, what: str) -> Any:
        """Return the prompts' embeddings where images are compared by CLIP's, or the prompts."""
        if what not in self.caches:
            return self.prompts
        path = EXTRACTORS[what].find(self.weights)
        return self.caches[what].kept(
            repr(self.prompts), lambda: embed_prompts(path, self.prompts, default_device())
        )

    def _verdicts(self, images: Images, prompts: Sequence[str]) -> Any:
        key = content_key(images, self._parser, *prompts)[:32]

        def read() -> list[dict[str, bool]]:
            found = verdicts(images, prompts)
            return [{kind: bool(holds) for kind, holds in verdict.items()} for verdict in found]

        return np.array(kept(self.folder / f"{key}.json", read), dtype=object)

    @cached_property
    def _parser(self) -> str:
        return identity_of(BUNDLED)


def extract_features(
    models: Sequence[EvaluatedModel],
    samples: SampleCache | ImageFolders,
    batches: Sequence[range],
    extraction: FeatureExtraction,
    bar: Progress,
) -> None:
    """Step 2: store the features of these batches of every model."""
    task = bar.add_task("extracting features", total=len(models) * len(batches), note="")
    for model in models:
        for numbers in batches:
            extraction.extract(samples.read(model, numbers), numbers)
            bar.advance(task)

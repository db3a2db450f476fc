"""Step 2: from images to what metrics compare, computed once and kept by the images' content."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from fewstep.console import Steps, TaskProgress
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
from fewstep.evaluation.prompts import EvaluationInputs, Reference
from fewstep.evaluation.samples import ImageFolders, SampleCache, Samples
from fewstep.evaluation.weights import WeightsMissing
from fewstep.files import kept
from fewstep.images import Images
from fewstep.models.loading import default_device


def extract_features(
    samples: SampleCache | ImageFolders,
    batches: Sequence[range],
    extraction: "FeatureExtraction",
) -> Steps[None]:
    """Store the features of these batches of every model."""
    work = [(model, numbers) for model in samples.models for numbers in batches]
    for done, (model, numbers) in enumerate(work, 1):
        batch = samples.read(model, numbers)
        for what in extraction.stored:
            extraction.of(what, batch, numbers)
        yield TaskProgress("extracting features", done, len(work))


@dataclass(frozen=True)
class FeatureExtraction:
    """The feature extractors of a protocol's metrics, with their cache in `folder`."""

    prompts: Sequence[str]
    folder: Path
    caches: Mapping[str, FeatureCache]
    missing: Mapping[str, str]
    """Extractors without weights, and how to get them."""
    stored: Sequence[str]
    """What is kept on disk: every extractor, and the verdicts of the bundled world's parser."""
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
        parser = ["verdicts"] if "verdicts" in wanted and inputs.prompts else []
        return cls(inputs.prompts, folder, caches, missing, [*caches, *parser], weights)

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
        """Return for each metric the prompts or real images that it compares all models with."""
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
        """Return the prompts, embedded if images are compared by an extractor's features."""
        if what not in self.caches:
            return self.prompts
        path, device = EXTRACTORS[what].find(self.weights), default_device()
        embed = lambda: embed_prompts(path, self.prompts, device)  # noqa: E731
        return self.caches[what].kept(repr(self.prompts), embed)

    def _verdicts(self, images: Images, prompts: Sequence[str]) -> Any:
        """Return for each image, as a dict in an array, which claims of its prompt hold."""
        key = content_key(images, self._parser, *prompts)[:32]

        def read() -> list[dict[str, bool]]:
            found = verdicts(images, prompts)
            return [{kind: bool(holds) for kind, holds in verdict.items()} for verdict in found]

        return np.array(kept(self.folder / f"{key}.json", read), dtype=object)

    @cached_property
    def _parser(self) -> str:
        return identity_of(BUNDLED)

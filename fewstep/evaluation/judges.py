"""Who judges images, batch by batch: what they say is kept on disk by the content it is of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from fewstep.errors import UserError
from fewstep.evaluation.features import (
    BUNDLED,
    EXTRACTORS,
    FeatureCache,
    Features,
    content_key,
    embed_prompts,
    identity_of,
)
from fewstep.evaluation.generate import Made
from fewstep.evaluation.metrics import METRICS
from fewstep.evaluation.metrics.pairs import pooled
from fewstep.evaluation.metrics.prompt_accuracy import Verdict, verdicts
from fewstep.evaluation.prompts import Task
from fewstep.evaluation.weights import WeightsMissing
from fewstep.files import kept
from fewstep.images import Images
from fewstep.models.loading import default_device


@dataclass(frozen=True)
class Judges:
    """The networks of a task's metrics, and what stands in the way of the others.

    `unavailable` says of each metric that cannot be measured why, and how to change that.
    """

    task: Task
    folder: Path
    caches: Mapping[str, FeatureCache]
    unavailable: Mapping[str, str]
    weights: Path | None = None

    @classmethod
    def of(cls, task: Task, folder: Path, weights: Path | None = None) -> Self:
        """Find every network that is there.

        Raises:
            UserError: if weights are damaged, or there are fewer prompts than a metric needs.
        """
        caches: dict[str, FeatureCache] = {}
        missing: dict[str, str] = {}
        for name in task.protocol.extractors:
            try:
                caches[name] = FeatureCache.of_extractor(name, folder, weights, default_device())
            except WeightsMissing as error:
                missing[name] = str(error)
        unavailable = {
            name: missing[METRICS[name].of]
            for name in task.protocol.metrics
            if METRICS[name].of in missing
        }
        for name in task.protocol.metrics:
            least = METRICS[name].smallest_n
            if name in unavailable or len(task.prompts) >= least:
                continue
            if task.protocol.num_prompts is not None:
                raise UserError(
                    f"--num-prompts is {len(task.prompts)}; the {METRICS[name].title} needs "
                    f"{least} or more"
                )
            unavailable[name] = f"needs {least} prompts or more, not {len(task.prompts)}"
        return cls(task, folder, caches, unavailable, weights)

    @property
    def metrics(self) -> list[str]:
        """The protocol's metrics that can be measured."""
        return [name for name in self.task.protocol.metrics if name not in self.unavailable]

    @property
    def reads_scenes(self) -> bool:
        return "prompt_accuracy" in self.task.protocol.metrics

    def see(self, made: Made, prompts: Sequence[str]) -> None:
        """Judge a batch, so that what is said of it is on disk."""
        self.features(made)
        if self.reads_scenes:
            self.verdicts(made.images, prompts)

    def features(self, made: Made) -> dict[str, Features]:
        """Return every network's features of a batch, and its pooled latents."""
        own = {name: cache.of(made.images) for name, cache in self.caches.items()}
        return own | {"pooled latents": pooled(made.latents)}

    def verdicts(self, images: Images, prompts: Sequence[str]) -> list[Verdict]:
        """Read images of the bundled world."""
        key = content_key(images, self._world, *prompts)[:32]

        def judge() -> list[Verdict]:
            judged = verdicts(images, prompts)
            return [{kind: bool(held) for kind, held in verdict.items()} for verdict in judged]

        return kept(self.folder / f"{key}.json", judge)

    @cached_property
    def _world(self) -> str:
        return identity_of(BUNDLED)

    @cached_property
    def real(self) -> dict[str, Any]:
        """What each metric that compares with real images keeps of them."""
        if self.task.real is None:
            return {}
        real = self.task.real
        return {
            name: METRICS[name].prepare(
                self.caches[METRICS[name].of].of_set(real.identity, real.batches)
            )
            for name in self.metrics
            if METRICS[name].against == "reference"
        }

    @cached_property
    def prompt_features(self) -> Features:
        """The prompts' embeddings beside those of images."""
        name, prompts = METRICS["clip_score"].of, self.task.prompts
        path = EXTRACTORS[name].find(self.weights)
        return self.caches[name].kept(
            repr(prompts), lambda: embed_prompts(path, prompts, default_device())
        )

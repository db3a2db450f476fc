"""Protocols: what has to be the same before two numbers may stand in one table."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from fewstep.evaluation.features import EXTRACTORS
from fewstep.evaluation.metrics import METRICS

WITHOUT_WEIGHTS = ("latent_frechet",)
WITH_REFERENCE = ("fid", "kid", "cmmd", "precision", "recall")


@dataclass(frozen=True)
class Protocol:
    """Prompts, reference and metrics; further metrics need neither and are measured always.

    `num_prompts` is None where all prompts of a file are taken. `side` is what images are resized
    to before they are judged (Lanczos); None leaves them as they are generated. `reference` says of
    COCO's that there are {num} images, which its folder tells.
    """

    prompts: str
    num_prompts: int | None
    reference: str
    metrics: tuple[str, ...]
    captions: str = ""
    """The part of COCO whose captions and images are taken."""
    draws: bool = False
    """Whether prompts are drawn from all captions, instead of each image's first."""
    side: int | None = None

    @property
    def extractors(self) -> tuple[str, ...]:
        """The networks that its metrics ask, each once."""
        names = (METRICS[name].of for name in self.metrics)
        return tuple(dict.fromkeys(name for name in names if name in EXTRACTORS))

    def described(
        self,
        name: str,
        prompts: Sequence[str],
        resolution: int,
        guidance_scale: float,
        extractors: Sequence[str],
    ) -> str:
        """Return everything that a number depends on, in words."""
        digest = hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:8]
        parts = [
            name,
            f"{len(prompts)} {self.prompts} ({digest})",
            self.reference,
            f"{resolution} px",
            f"images resized to {self.side} (Lanczos)" if self.side else "",
            f"teacher's guidance {guidance_scale:g}",
            *(EXTRACTORS[extractor].title for extractor in extractors),
        ]
        return "; ".join(part for part in parts if part)


PROTOCOLS = {
    "bundled": Protocol(
        prompts="held-out prompts",
        num_prompts=2000,
        reference="5000 reference renderings",
        metrics=("prompt_accuracy", "frechet", *WITHOUT_WEIGHTS),
    ),
    "coco2017-5k": Protocol(
        prompts="first captions of COCO val2017",
        num_prompts=5000,
        reference="reference: all {num} images, the middle square at the model's side (Lanczos)",
        metrics=(*WITH_REFERENCE, "fid_teacher", "clip_score", *WITHOUT_WEIGHTS),
        captions="val2017",
    ),
    "coco2014-30k-256": Protocol(
        prompts="captions drawn from COCO val2014",
        num_prompts=30_000,
        reference="reference: all {num} images, the middle square at 256 (Lanczos)",
        metrics=(*WITH_REFERENCE, "fid_teacher", "clip_score", *WITHOUT_WEIGHTS),
        captions="val2014",
        draws=True,
        side=256,
    ),
    "prompts": Protocol(
        prompts="prompts of the user's",
        num_prompts=None,
        reference="",
        metrics=("fid_teacher", "clip_score", *WITHOUT_WEIGHTS),
    ),
}
"""The protocols by their names: how `fewstep evaluate --protocol NAME` measures."""

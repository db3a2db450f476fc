"""Protocols: what has to be the same before two numbers may stand in one table."""

from dataclasses import dataclass

from fewstep.evaluation.metrics import METRICS

WITHOUT_WEIGHTS = ("latent_frechet",)
WITH_REFERENCE = ("fid", "kid", "cmmd", "precision", "recall")


@dataclass(frozen=True)
class Protocol:
    """Prompts, reference images, and the metrics that suit them.

    `num_prompts` is None where all prompts of a file are taken. Images are resized to `side`
    (Lanczos) before they are measured; None leaves them as they are generated. `reference`
    describes the reference images, if there are any; {num} is the number in COCO's folder.
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
    def metric_names(self) -> list[str]:
        """Its metrics, and those that no protocol names: they suit every one."""
        named = {name for protocol in PROTOCOLS.values() for name in protocol.metrics}
        return [name for name in METRICS if name in self.metrics or name not in named]


PROTOCOLS = {
    "bundled": Protocol(
        prompts="held-out prompts",
        num_prompts=2000,
        reference="5000 reference renderings",
        metrics=("prompt_accuracy", "frechet", "bundled_recall", "diversity", *WITHOUT_WEIGHTS),
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

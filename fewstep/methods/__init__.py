"""The science: one file a method, each readable alone beside its paper."""

from typing import cast

from fewstep.methods.base import Batch, Denoisers, LearnsFake, LossOutput, Method
from fewstep.methods.cd import ConsistencyDistillation
from fewstep.methods.ct import ConsistencyTraining
from fewstep.methods.multi_boundary import MultiBoundaryDistillation, MultiBoundaryTraining
from fewstep.methods.trajectory_matching import TrajectoryMatching

METHODS: dict[str, type[Method]] = {
    "ct": ConsistencyTraining,
    "cd": ConsistencyDistillation,
    "multi-boundary-cd": MultiBoundaryDistillation,
    "multi-boundary-ct": MultiBoundaryTraining,
    "trajectory-matching": cast(type[Method], TrajectoryMatching),  # its sampler is a setting
}
"""Every method by the name that settings and artefacts use."""


def method_title(name: str, full: bool = False) -> str:
    """Return the title of a method, short or in full; its name where it has none.

    >>> method_title("multi-boundary-cd"), method_title("cd", full=True), method_title("mine")
    ('Multi-boundary CD', 'consistency distillation', 'mine')
    """
    return getattr(METHODS.get(name), "full_title" if full else "title", name)


__all__ = [
    "METHODS",
    "Batch",
    "ConsistencyDistillation",
    "ConsistencyTraining",
    "Denoisers",
    "LearnsFake",
    "LossOutput",
    "Method",
    "MultiBoundaryDistillation",
    "MultiBoundaryTraining",
    "TrajectoryMatching",
    "method_title",
]

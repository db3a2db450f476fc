"""The science: one file a method, each readable alone beside its paper."""

from fewstep.methods.base import Batch, Denoisers, LossOutput, Method
from fewstep.methods.cd import ConsistencyDistillation
from fewstep.methods.ct import ConsistencyTraining
from fewstep.methods.multi_boundary import MultiBoundaryDistillation, MultiBoundaryTraining

METHODS: dict[str, type[Method]] = {
    "ct": ConsistencyTraining,
    "cd": ConsistencyDistillation,
    "multi-boundary-cd": MultiBoundaryDistillation,
    "multi-boundary-ct": MultiBoundaryTraining,
}
"""Every method by the name that settings and artefacts use."""

__all__ = [
    "METHODS",
    "Batch",
    "ConsistencyDistillation",
    "ConsistencyTraining",
    "Denoisers",
    "LossOutput",
    "Method",
    "MultiBoundaryDistillation",
    "MultiBoundaryTraining",
]

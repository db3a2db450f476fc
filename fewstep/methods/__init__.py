"""The science: one file a method, each readable alone beside its paper.

Begin at `cd.py`.
"""

from collections import UserDict
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewstep.methods.base import Batch, Denoisers, LearnsFake, LossOutput, Method
    from fewstep.methods.cd import ConsistencyDistillation
    from fewstep.methods.ct import ConsistencyTraining
    from fewstep.methods.multi_boundary import MultiBoundaryDistillation, MultiBoundaryTraining
    from fewstep.methods.trajectory_matching import TrajectoryMatching


class Methods(UserDict[str, Any]):
    """Methods by name; one that is given as "file.Class" is imported when it is first used.

    A wrong name in the settings is so refused without waiting for torch.
    """

    def __getitem__(self, name: str) -> "type[Method]":
        entry = self.data[name]
        if isinstance(entry, str):
            file, _, kind = entry.partition(".")
            entry = getattr(import_module(f"{__name__}.{file}"), kind)
        return entry


METHODS = Methods({
    "ct": "ct.ConsistencyTraining",
    "cd": "cd.ConsistencyDistillation",
    "multi-boundary-cd": "multi_boundary.MultiBoundaryDistillation",
    "multi-boundary-ct": "multi_boundary.MultiBoundaryTraining",
    "trajectory-matching": "trajectory_matching.TrajectoryMatching",
})  # fmt: skip
"""Every method by the name that settings and artefacts use."""


def __getattr__(name: str) -> Any:
    """Return one of `__all__` from its file, which is imported when it is first used."""
    if name in __all__:
        for file in ("base", "cd", "ct", "multi_boundary", "trajectory_matching"):
            found = vars(import_module(f"{__name__}.{file}")).get(name)
            if found is not None:
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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

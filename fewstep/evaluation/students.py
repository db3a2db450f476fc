"""The students that are evaluated: runs and artefacts, read once."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from fewstep.errors import UserError
from fewstep.models.base import digest
from fewstep.models.precision import MIXED
from fewstep.student.contract import Contract
from fewstep.student.load import read_artefact


@dataclass(frozen=True)
class Student:
    """An artefact's contract and weights."""

    source: str
    contract: Contract
    weights: Mapping[str, Tensor]

    @cached_property
    def digest(self) -> str:
        """The sha256 of the weights."""
        return digest(self.weights)

    @property
    def seed(self) -> int | None:
        """The training seed, if the contract has one."""
        return self.contract.train.get("seed")

    @property
    def settings(self) -> str:
        """The contract without the training seed, the versions and the files."""
        return self._settings("seed")

    def in_full_precision(self, students: "Sequence[Student]") -> "Student | None":
        """Return which student had the same training without `quantize` and mixed precision."""
        train = self.contract.train
        plain = {"precision": "fp32"} if train.get("precision") == MIXED else {}
        if "quantize" not in train and not plain:
            return None
        settings = self._settings("seed", "quantize", **plain)
        same = (o for o in students if (o.seed, o.settings) == (self.seed, settings))
        return next(same, None)

    def _settings(self, *but: str, **changed: Any) -> str:
        entries = dataclasses.asdict(self.contract)
        train = entries["train"] | changed
        entries["train"] = {k: v for k, v in train.items() if k not in but}
        kept = {k: v for k, v in entries.items() if k not in ("versions", "files")}
        return json.dumps(kept, sort_keys=True)


def read_students(sources: Sequence[str]) -> list[Student]:
    """Read every source once: a run, an artefact, or a folder of runs.

    Raises:
        UserError: if one cannot be read, or a run in a folder is not finished.
    """
    named = [folder for source in sources for folder in _expand(Path(source))]
    folders = list({folder.resolve(): folder for folder in named}.values())
    names = [folder.name for folder in folders]
    return [
        Student(name if names.count(name) == 1 else str(folder), *read_artefact(folder))
        for name, folder in zip(names, folders, strict=True)
    ]


def _expand(folder: Path) -> list[Path]:
    """Return the folder itself, or the runs in it.

    Raises:
        UserError: if one of them is not finished.
    """
    if (folder / "artefact").is_dir() or not folder.is_dir():
        return [folder]
    runs = sorted(c for c in folder.iterdir() if c.is_dir() and (c / "config.toml").is_file())
    if unfinished := [str(run) for run in runs if not (run / "artefact").is_dir()]:
        raise UserError(
            f"not trained to their end: {', '.join(unfinished)}; run their fewstep distill again, "
            "or name the finished runs one by one"
        )
    return sorted(c for c in folder.iterdir() if (c / "artefact").is_dir()) or [folder]

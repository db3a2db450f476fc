"""Who is compared: the students of some runs or artefacts, and their common teacher."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from fewstep.errors import UserError
from fewstep.models.base import ModelFamily, fingerprint
from fewstep.models.loading import load_model
from fewstep.run.paint import TEACHER_GUIDANCE, TEACHER_STEPS
from fewstep.sampling.contract import Contract
from fewstep.sampling.pipeline import Painter, read_artefact, student_painter, teacher_painter


@dataclass(frozen=True)
class Contestant:
    """One way of making pictures; `painter` is built when it is called.

    `identity` changes with anything that its pictures depend on, prompts and noise aside.
    """

    source: str
    method: str
    steps: int
    seed: int | None
    identity: tuple[object, ...]
    keeps_noise: bool
    """Whether its pictures are a function of the starting noise alone."""
    painter: Callable[[], Painter] = dataclasses.field(compare=False)


@dataclass(frozen=True)
class Student:
    """An artefact, read: its contract and its weights."""

    source: str
    contract: Contract
    weights: Mapping[str, Tensor]

    @property
    def digest(self) -> float:
        """A number that changes with the weights."""
        return sum(float(weight.double().abs().sum()) for weight in self.weights.values())


@dataclass(frozen=True)
class Field:
    """The students, and the teacher that all of them were distilled from.

    Raises:
        UserError: if they come from different teachers, resolutions or guidance scales.
    """

    students: Sequence[Student]

    @classmethod
    def open(cls, sources: Sequence[str]) -> "Field":
        """Read every source: a run, an artefact, or a folder that holds runs."""
        folders = [folder for source in sources for folder in _expand(Path(source))]
        students = [Student(folder.name, *read_artefact(folder)) for folder in folders]
        for entry, values in {
            "base model": {s.contract.base["fingerprint"] for s in students},
            "resolution": {s.contract.data["resolution"] for s in students},
            "guidance scale": {s.contract.guidance_scale for s in students} - {1.0},
        }.items():
            if len(values) > 1:
                raise UserError(
                    f"these students differ in their {entry} ({', '.join(map(str, values))}); "
                    "compare only students of one teacher"
                )
        return cls(students)

    @property
    def base(self) -> str:
        return self.students[0].contract.base["id"]

    @property
    def resolution(self) -> int:
        return self.students[0].contract.data["resolution"]

    @property
    def guidance_scale(self) -> float:
        """The scale that was distilled; the default where all students are unguided."""
        scales = [s.contract.guidance_scale for s in self.students]
        return max(scales) if max(scales) > 1 else TEACHER_GUIDANCE

    @cached_property
    def family(self) -> ModelFamily:
        base = self.students[0].contract.base
        device = "cuda" if torch.cuda.is_available() else "cpu"
        family = load_model(base["id"], device=device, revision=base.get("revision"))
        if fingerprint(family.network) != base["fingerprint"]:
            raise UserError(
                f"{self.base} is not the model that these students were distilled from: its "
                "weights have changed"
            )
        return family

    def teacher(self, steps: int = TEACHER_STEPS, guided: bool = True) -> Contestant:
        scale = self.guidance_scale if guided else 1.0
        return Contestant(
            source=f"{Path(self.base).name}, guidance {scale:g}" if guided
            else f"{Path(self.base).name}, unguided",
            method="teacher",
            steps=steps,
            seed=None,
            identity=(self.students[0].contract.base["fingerprint"], steps, scale),
            painter=lambda: teacher_painter(self.family, steps, scale),
            keeps_noise=True,
        )  # fmt: skip

    def student(self, student: Student, steps: int | None = None) -> Contestant:
        contract = student.contract
        steps = steps or contract.default_num_steps
        return Contestant(
            source=student.source,
            method=contract.method["name"],
            steps=steps,
            seed=contract.train.get("seed"),
            identity=(contract.to_json(), student.digest, steps),
            painter=lambda: student_painter(self.family, contract, student.weights, steps),
            keeps_noise=contract.grid.sampler == "deterministic" or steps == 1,
        )


def _expand(folder: Path) -> list[Path]:
    """Return the folder itself, or the finished runs in it."""
    if (folder / "artefact").is_dir() or not folder.is_dir():
        return [folder]
    inside = sorted(child for child in folder.iterdir() if (child / "artefact").is_dir())
    return inside or [folder]

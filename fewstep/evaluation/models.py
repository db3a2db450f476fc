"""Who is compared: the students of some runs or artefacts, and their common teacher."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from fewstep.errors import UserError
from fewstep.methods import METHODS
from fewstep.models.base import ModelFamily, digest, fingerprint
from fewstep.models.loading import default_device
from fewstep.student.contract import Contract
from fewstep.student.generate import (
    TEACHER_GUIDANCE,
    TEACHER_STEPS,
    ImageSampler,
    student_sampler,
    teacher_nfe,
    teacher_sampler,
)
from fewstep.student.load import load_base, read_artefact, student_network


@dataclass(frozen=True)
class Contestant:
    """One way of making images; `sampler` is built when it is called.

    `identity` changes with anything that its images depend on, prompts and noise aside;
    `settings` are alike for trainings that differ in their seed alone.
    """

    source: str
    method: str
    steps: int
    calls: int
    seed: int | None
    settings: str
    identity: tuple[object, ...]
    keeps_noise: bool
    """Whether its images are a function of the starting noise alone."""
    knows_teacher: bool
    """False for a student that learnt from data alone, and so imitates the unguided teacher."""
    sampler: Callable[[], ImageSampler] = dataclasses.field(compare=False)
    spacing: str = "uniform"
    """How a teacher's timesteps lie; a student's are in its contract."""


@dataclass(frozen=True)
class Student:
    """An artefact, read: its contract and its weights."""

    source: str
    contract: Contract
    weights: Mapping[str, Tensor]

    @cached_property
    def digest(self) -> str:
        """The sha256 of the weights."""
        return digest(self.weights)

    @property
    def seed(self) -> int | None:
        return self.contract.train.get("seed")

    @property
    def settings(self) -> str:
        """All that the contract says of how it was trained, but for the seed and the versions."""
        entries = dataclasses.asdict(self.contract)
        entries["train"] = {k: v for k, v in entries["train"].items() if k != "seed"}
        told = {k: v for k, v in entries.items() if k not in ("versions", "files")}
        return json.dumps(told, sort_keys=True)


@dataclass(frozen=True)
class Field:
    """The students, and the teacher that all of them were distilled from.

    Raises:
        UserError: if their teachers' weights, noise levels or kind of prediction differ, or their
            resolutions or guidance scales.
    """

    students: Sequence[Student]

    @classmethod
    def open(cls, sources: Sequence[str]) -> "Field":
        """Read every source once: a run, an artefact, or a folder that holds runs."""
        named = [folder for source in sources for folder in _expand(Path(source))]
        folders = list({folder.resolve(): folder for folder in named}.values())
        names = [folder.name for folder in folders]
        students = [
            Student(name if names.count(name) == 1 else str(folder), *read_artefact(folder))
            for name, folder in zip(names, folders, strict=True)
        ]
        for entry, values in {
            "base model": {s.contract.base["fingerprint"] for s in students},
            "noise schedule": {s.contract.schedule.digest[:12] for s in students},
            "prediction_type": {s.contract.prediction_type for s in students},
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
        first = self.students[0]
        return load_base(first.contract, first.source, device=default_device())

    @cached_property
    def model(self) -> tuple[str, ...]:
        """What images depend on in the model itself: network, codec and schedule."""
        family = self.family
        codec = fingerprint(*family.vae_and_text_encoder)
        return family.fingerprint, codec, json.dumps(dict(family.scheduler_config), sort_keys=True)

    def teachers_as_students(self, steps: int) -> list[Contestant]:
        """Return the teacher at the students' own timesteps, where they are not evenly spaced."""
        spacings = {s.contract.grid.spacing for s in self.students} - {"uniform"}
        return [self.teacher(steps, spacing=spacing) for spacing in sorted(spacings)]

    def teacher(
        self, steps: int = TEACHER_STEPS, guided: bool = True, spacing: str = "uniform"
    ) -> Contestant:
        scale = self.guidance_scale if guided else 1.0
        how = f"guidance {scale:g}" if guided else "unguided"
        how += "" if spacing == "uniform" else f", {spacing} steps"
        return Contestant(
            source=f"{Path(self.base).name}, {how}",
            method="teacher",
            steps=steps,
            calls=teacher_nfe(steps, scale),
            seed=None,
            settings=how,
            identity=(*self.model, steps, scale) + ((spacing,) if spacing != "uniform" else ()),
            sampler=lambda: teacher_sampler(self.family, steps, scale, spacing=spacing),
            keeps_noise=True,
            knows_teacher=True,
            spacing=spacing,
        )

    def student(self, student: Student, steps: int | None = None) -> Contestant:
        contract = student.contract
        steps = contract.default_num_steps if steps is None else steps

        def sampler() -> ImageSampler:
            network = student_network(self.family, contract, student.weights)
            return student_sampler(self.family, contract, network, steps)

        return Contestant(
            source=student.source,
            method=contract.method["name"],
            steps=steps,
            calls=steps,
            seed=student.seed,
            settings=student.settings,
            identity=(*self.model, student.settings, student.digest, steps),
            sampler=sampler,
            keeps_noise=contract.sampler == "deterministic" or steps == 1,
            knows_teacher=METHODS[contract.method["name"]].has_teacher,
        )


def _expand(folder: Path) -> list[Path]:
    """Return the folder itself, or the runs in it.

    Raises:
        UserError: if one of them is not finished.
    """
    if (folder / "artefact").is_dir() or not folder.is_dir():
        return [folder]
    runs = sorted(c for c in folder.iterdir() if c.is_dir() and (c / "config.toml").is_file())
    if half := [str(run) for run in runs if not (run / "artefact").is_dir()]:
        raise UserError(
            f"not trained to their end: {', '.join(half)}; run their fewstep distill again, or "
            "name the finished runs one by one"
        )
    inside = sorted(c for c in folder.iterdir() if (c / "artefact").is_dir())
    return inside or [folder]

"""The evaluated models: the students of some runs or artefacts, and their common teacher."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fewstep.config import TEACHER_GUIDANCE
from fewstep.diffusion.grid import Grid
from fewstep.errors import UserError
from fewstep.evaluation.students import Student, read_students
from fewstep.methods import METHODS
from fewstep.models.base import ModelFamily, fingerprint
from fewstep.models.loading import default_device
from fewstep.student.generate import (
    TEACHER_STEPS,
    ImageSampler,
    student_sampler,
    teacher_nfe,
    teacher_sampler,
)
from fewstep.student.networks import load_base, student_network

STUDENT_STEPS = (1, 2, 4, 8)
FEWER_TEACHER_STEPS = (8, 4)


def _no_network() -> ImageSampler:
    raise UserError("a folder of images has no network to generate others with")


@dataclass(frozen=True)
class EvaluatedModel:
    """A network at a number of steps; `nfe` is its network evaluations an image.

    `identity` changes with everything that its images depend on but prompts and noise; `settings`
    are the same for trainings that differ only in their seed.
    """

    source: str
    method: str
    steps: int
    nfe: int
    seed: int | None = None
    settings: str = ""
    identity: tuple[object, ...] = ()
    is_deterministic: bool = True
    """Whether its images are a function of the starting noise alone."""
    grid: Grid | None = None
    """A student's solver timesteps and segments."""
    references: Mapping[str, "EvaluatedModel"] = dataclasses.field(
        default_factory=dict, compare=False
    )
    """The other models that it is compared with, by what `against` of a metric calls them."""
    sampler: Callable[[], ImageSampler] = dataclasses.field(default=_no_network, compare=False)
    """Loads the network."""
    spacing: str = "uniform"
    """The teacher's timesteps; a student's are in its contract."""

    def compared_with(self, against: str | None) -> "EvaluatedModel | None":
        """Return the model that `against` of a metric means for this one; None for itself."""
        return self.references.get(against) if against else None

    def __str__(self) -> str:
        return f"{self.source} in {self.steps} steps" if self.steps else self.source


@dataclass(frozen=True)
class EvaluationSet:
    """Students of one teacher; each is evaluated at those of `student_steps` that it knows.

    With `brief` the teacher is evaluated in its full number of steps alone.
    """

    students: Sequence[Student]
    student_steps: Sequence[int] = STUDENT_STEPS
    brief: bool = False

    @classmethod
    def open(
        cls,
        sources: Sequence[str],
        student_steps: Sequence[int] = STUDENT_STEPS,
        brief: bool = False,
    ) -> "EvaluationSet":
        """Read every source once: a run, an artefact, or a folder of runs.

        Raises:
            UserError: if one cannot be read, or the students' teachers differ in their weights,
                noise levels or prediction type, or their resolutions or guidance scales.
        """
        students = read_students(sources)
        for entry, values in {
            "base model": {s.contract.base["fingerprint"] for s in students},
            "noise schedule": {s.contract.schedule.digest[:12] for s in students},
            "prediction_type": {s.contract.prediction_type for s in students},
            "long prompts": {s.contract.long_prompts for s in students},
            "resolution": {s.contract.data["resolution"] for s in students},
            "guidance scale": {s.contract.guidance_scale for s in students} - {1.0},
        }.items():
            if len(values) > 1:
                found = ", ".join(sorted(map(str, values)))
                raise UserError(
                    f"these students differ in their {entry} ({found}); "
                    "compare only students of one teacher"
                )
        return cls(students, student_steps, brief)

    def check_distinct(self) -> None:
        """Refuse the same training twice, which pooling would count as two.

        Raises:
            UserError: naming the two sources.
        """
        known: dict[tuple[str, int | None], str] = {}
        for student in self.students:
            other = known.setdefault((student.settings, student.seed), student.source)
            if other != student.source:
                raise UserError(
                    f"{other} and {student.source} have the same settings and the same seed "
                    f"{student.seed}; evaluate one of them"
                )

    @property
    def base(self) -> str:
        """The base model's id, as in the contracts."""
        return self.students[0].contract.base["id"]

    @property
    def resolution(self) -> int:
        """The side in pixels of the images that the students were trained on."""
        return self.students[0].contract.data["resolution"]

    @property
    def guidance_scale(self) -> float:
        """The scale that was distilled; the default where all students are unguided."""
        scale = max(student.contract.guidance_scale for student in self.students)
        return scale if scale > 1 else TEACHER_GUIDANCE

    @cached_property
    def family(self) -> ModelFamily:
        """The base model, loaded when it is first used; see `load_base`."""
        first = self.students[0]
        return load_base(first.contract, first.source, device=default_device())

    @cached_property
    def model(self) -> tuple[str, ...]:
        """The digests of network, VAE and text encoder, and schedule; chunks of long prompts."""
        family = self.family
        config = json.dumps(dict(family.scheduler_config), sort_keys=True)
        how = () if family.long_prompts == "cut" else (family.long_prompts,)
        return family.fingerprint, fingerprint(*family.vae_and_text_encoder), config, *how

    @cached_property
    def models(self) -> list[EvaluatedModel]:
        """The teacher, guided and not, at several numbers of steps, and each student at its own.

        The teacher takes few steps at the students' timesteps too, if these are not uniform.
        """
        fewer = () if self.brief else FEWER_TEACHER_STEPS
        numbers = (TEACHER_STEPS, *fewer)
        guided = [self.teacher(steps) for steps in numbers]
        guided += [t for steps in fewer for t in self.teachers_as_students(steps)]
        unguided = [self.teacher(steps, guided=False) for steps in numbers]
        if self.brief and all(
            METHODS[s.contract.method["name"]].has_teacher for s in self.students
        ):
            unguided = []
        students = [
            self.student(student, steps)
            for student in self.students
            for steps in self.steps_of(student)
        ]
        return [*guided, *unguided, *students]

    @property
    def in_own_steps(self) -> list[EvaluatedModel]:
        """The teacher in its full number of steps, and each student in its contract's."""
        return [self.teacher(), *map(self.student, self.students)]

    def side_by_side(self, few: int = 4) -> list[EvaluatedModel]:
        """Return what a grid of images shows: the models in their own steps, the teacher in few."""
        teacher, *students = self.in_own_steps
        return [teacher, self.teacher(few), *self.teachers_as_students(few), *students]

    def steps_of(self, student: Student) -> list[int]:
        """Return a student's numbers of steps, its contract's own among them."""
        known = student.contract.sampling_timesteps.keys()
        return sorted({*self.student_steps, student.contract.default_num_steps} & known)

    def teachers_as_students(self, steps: int) -> list[EvaluatedModel]:
        """Return the teacher at the students' own timesteps, where they are not uniform."""
        spacings = {s.contract.grid.spacing for s in self.students} - {"uniform"}
        return [self.teacher(steps, spacing=spacing) for spacing in sorted(spacings)]

    def teacher(
        self, steps: int = TEACHER_STEPS, guided: bool = True, spacing: str = "uniform"
    ) -> EvaluatedModel:
        """Return the teacher at a number of steps, compared with the guided one in 50."""
        scale = self.guidance_scale if guided else 1.0
        is_full = (steps, guided, spacing) == (TEACHER_STEPS, True, "uniform")
        how = f"guidance {scale:g}" if guided else "unguided"
        how += "" if spacing == "uniform" else f", {spacing} steps"
        return EvaluatedModel(
            source=f"{Path(self.base).name}, {how}",
            method="teacher",
            steps=steps,
            nfe=teacher_nfe(steps, scale),
            settings=how,
            identity=(*self.model, steps, scale) + ((spacing,) if spacing != "uniform" else ()),
            references={} if is_full else {"teacher": self.teacher()},
            sampler=lambda: teacher_sampler(self.family, steps, scale, spacing=spacing),
            spacing=spacing,
        )

    def student(self, student: Student, steps: int | None = None) -> EvaluatedModel:
        """Return a student at a number of steps, by default its contract's.

        It is compared with the teacher, with the unguided one if it learnt from data alone, with
        itself at its most steps, and with the same training in full precision.
        """
        contract, most = student.contract, self.steps_of(student)[-1]
        steps = contract.default_num_steps if steps is None else steps
        references = {"teacher": self.teacher()}
        if not METHODS[contract.method["name"]].has_teacher:
            references["unguided teacher"] = self.teacher(guided=False)
        if plain := student.in_full_precision(self.students):
            references["full precision"] = self.student(plain, steps)
        if steps < most:
            references["most steps"] = self.student(student, most)

        def sampler() -> ImageSampler:
            network = student_network(self.family, contract, student.weights)
            return student_sampler(self.family, contract, network, steps)

        return EvaluatedModel(
            source=student.source,
            method=contract.method["name"],
            steps=steps,
            nfe=steps,
            seed=student.seed,
            settings=student.settings,
            identity=(*self.model, student.settings, student.digest, steps),
            is_deterministic=contract.sampler == "deterministic" or steps == 1,
            grid=contract.grid,
            references=references,
            sampler=sampler,
        )

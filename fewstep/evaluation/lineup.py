"""Who takes part in an evaluation, and who is compared with whom."""

from collections.abc import Iterable, Sequence

from fewstep.errors import UserError
from fewstep.evaluation.measure import Others
from fewstep.evaluation.models import Contestant, Field
from fewstep.student.generate import TEACHER_STEPS

FEWER_TEACHER_STEPS = (8, 4)


def line_up(field: Field, student_steps: Sequence[int]) -> list[Contestant]:
    """Return the teacher at several numbers of steps, and each student at those it knows.

    Where students' timesteps are not evenly spaced, the teacher takes few steps at theirs as well;
    and it takes part unguided, as those who learn from data alone imitate that.
    """
    teachers = [field.teacher(steps) for steps in (TEACHER_STEPS, *FEWER_TEACHER_STEPS)]
    teachers += [t for steps in FEWER_TEACHER_STEPS for t in field.teachers_as_students(steps)]
    students = [
        field.student(student, steps)
        for student in field.students
        for steps in sorted(
            {*student_steps, student.contract.default_num_steps}
            & student.contract.sampling_timesteps.keys()
        )
    ]
    unguided = [
        field.teacher(steps, guided=False) for steps in (TEACHER_STEPS, *FEWER_TEACHER_STEPS)
    ]
    return [*teachers, *unguided, *students]


def others_of(contestant: Contestant, contestants: Iterable[Contestant], field: Field) -> Others:
    """Return who a contestant is compared with."""
    longest = contestant
    for other in contestants:
        same = (other.source, other.settings, other.seed)
        if same == (contestant.source, contestant.settings, contestant.seed):
            longest = max(longest, other, key=lambda one: one.steps)
    is_teacher = contestant.method == "teacher"
    return Others(
        truth=field.teacher(),
        plain=field.teacher(guided=False),
        longest=contestant if is_teacher else longest,
    )


def is_shown(contestant: Contestant, field: Field) -> bool:
    """Whether a contestant has a column: the teacher in 50 and 4 steps, students in their own.

    The teacher's 4 steps are uniform ones and those of the students, where they are others.
    """
    if contestant.method == "teacher":
        return contestant in (field.teacher(), field.teacher(4), *field.teachers_as_students(4))
    return contestant in [field.student(student) for student in field.students]


def check_distinct(field: Field) -> None:
    """Refuse the same training twice: pooled, it would count as two.

    Raises:
        UserError: naming the sources.
    """
    known: dict[tuple[str, int | None], str] = {}
    for student in field.students:
        other = known.setdefault((student.settings, student.seed), student.source)
        if other != student.source:
            raise UserError(
                f"{other} and {student.source} have the same settings and the same seed "
                f"{student.seed}; evaluate one of them"
            )

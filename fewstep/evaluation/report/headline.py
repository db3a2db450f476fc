"""The report's first sentences: one student beside its teacher."""

from collections.abc import Sequence
from dataclasses import dataclass

from fewstep.console import counted
from fewstep.evaluation.intervals import Interval
from fewstep.evaluation.labels import shown, shown_range, title_of
from fewstep.evaluation.metrics import METRICS
from fewstep.evaluation.results import Row, overview

NUM_STEPS = 4
"""The number of steps that the student of the headline is looked for at."""
LATENTS = "latent_frechet"
NEARNESS = {
    "same_noise_rmse": "from the same noise its images are {} from the teacher’s (root mean "
    "square; black to white is 1)",
    LATENTS: "its images’ latents are at a Fréchet distance of {} from the teacher’s",
}
"""What says how near the teacher a student is, where prompts are not read: the first that is."""


@dataclass(frozen=True)
class Match:
    """The student that the report opens with, its teacher, and the teacher in as few steps."""

    teacher: Row
    student: Row
    few: Row | None = None

    def both(self, name: str) -> tuple[Interval, Interval] | None:
        """Return a metric of the student and of the teacher, if both were measured."""
        student, teacher = (row.metrics.get(name) for row in (self.student, self.teacher))
        return (student, teacher) if student and teacher else None


def match(rows: Sequence[Row]) -> Match | None:
    """Choose the teacher with the highest NFE and the most accurate student at NUM_STEPS steps.

    Without accuracies it is the first; without a student at these steps, one with the lowest NFE.
    """
    teachers = [row for row in overview(rows) if row.method == "teacher"]
    students = [row for row in overview(rows) if row.method != "teacher"]
    if not teachers or not students:
        return None
    few = [row for row in students if row.steps == NUM_STEPS]
    students = few or [min(students, key=lambda row: row.calls)]
    student = max(students, key=_accuracy)
    as_few = [row for row in teachers if row.steps == student.steps]
    few = max(as_few, key=lambda row: (row.calls, -_distance(row)), default=None)
    return Match(max(teachers, key=lambda row: row.calls), student, few)


def _accuracy(row: Row) -> float:
    return row.metrics["prompt_accuracy"].value if "prompt_accuracy" in row.metrics else 0.0


def _distance(row: Row) -> float:
    return next((row.metrics[name].value for name in NEARNESS if name in row.metrics), 0.0)


def headline(found: Match) -> str:
    """Return the title.

    >>> teacher = Row("bundled", "teacher", 50, 100, None, {})
    >>> headline(Match(teacher, Row("runs/cd", "cd", 4, 4, 0, {})))
    '4 network evaluations instead of 100'
    """
    return f"{counted(found.student.calls, 'network evaluation')} instead of {found.teacher.calls}"


def lead(found: Match) -> str:
    """Return the sentences under the title, from what was measured."""
    student, verb = found.student, "stands in for"
    if seconds := found.both("seconds_per_image"):
        verb = f"makes an image {seconds[1].value / seconds[0].value:.1f} times as fast as"
    name = f"{title_of(student.method)} at {counted(student.steps, 'step')}"
    text = f"{name} {verb} the teacher at {found.teacher.steps}{_nearness(found)}."
    if accuracy := found.both("prompt_accuracy"):
        ours, theirs = (shown("prompt_accuracy", interval.value) for interval in accuracy)
        text += f" {ours} of its images show everything that their prompt says, against {theirs}"
        text += " of the teacher’s."
    return text


def _nearness(found: Match) -> str:
    """Return how near the student's images come to the teacher's, by what needs no weights."""
    if found.both("prompt_accuracy"):
        return ""  # which says more
    for name, what in NEARNESS.items():
        if ours := found.student.metrics.get(name):
            text = f", and {what.format(shown(name, ours.value))}"
            if found.few and (theirs := found.few.metrics.get(name)):
                own = f"the teacher’s own in {counted(found.few.steps, 'step')}"
                text += f", where {own} are at {shown(name, theirs.value)}"
            return text
    least = METRICS[LATENTS].smallest_n
    return f"; how near its images come to the teacher’s takes {least} prompts or more to say"


def facts(found: Match) -> list[tuple[str, str, str]]:
    """Return the headline's numbers: title, value, and its interval with the teacher's value."""
    nfe = (str(found.student.calls), f"teacher {found.teacher.calls}")
    numbers = [("Network evaluations an image", *nfe)]
    for name, title in (
        ("seconds_per_image", "Seconds an image"),
        ("prompt_accuracy", "Prompts shown right"),
        ("frechet", "Fréchet distance"),
    ):
        if both := found.both(name):
            ours, theirs = both
            notes = (shown_range(name, ours), f"teacher {shown(name, theirs.value)}")
            numbers.append((title, shown(name, ours.value), "; ".join(filter(None, notes))))
    return numbers

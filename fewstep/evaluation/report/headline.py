"""The report's first sentence: one student beside its teacher."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from fewstep.evaluation.labels import counted, shown, shown_range, title_of
from fewstep.evaluation.results import Row, overview


@dataclass(frozen=True)
class Match:
    """The student that the report opens with, and the teacher that it learnt from."""

    teacher: Row
    student: Row

    def speed_up(self) -> float | None:
        """Return how many times less time the student takes, if both were timed."""
        seconds = [row.metrics.get("seconds_per_image") for row in (self.teacher, self.student)]
        return seconds[0].value / seconds[1].value if seconds[0] and seconds[1] else None


def match(rows: Sequence[Row], steps: int = 4) -> Match | None:
    """Choose the teacher with most calls, and of the students at `steps` steps the most accurate.

    Without accuracies it is the first one; without a student at these steps, one with fewer calls.
    """
    teachers = [row for row in overview(rows) if row.method == "teacher"]
    students = [row for row in overview(rows) if row.method != "teacher"]
    if not teachers or not students:
        return None
    near = [row for row in students if row.steps == steps]
    students = near or sorted(students, key=lambda row: row.calls)[:1]
    return Match(max(teachers, key=lambda row: row.calls), max(students, key=accuracy))


def accuracy(row: Row) -> float:
    measured = row.metrics.get("prompt_accuracy")
    return measured.value if measured else 0.0


def headline(found: Match) -> str:
    """Return the title: what the student needs, instead of what the teacher does.

    >>> teacher = Row("bundled", "teacher", 50, 100, None, {})
    >>> headline(Match(teacher, Row("runs/cd", "cd", 4, 4, 0, {})))
    '4 network calls instead of 100'
    """
    return f"{counted(found.student.calls, 'network call')} instead of {found.teacher.calls}"


def lead(found: Match) -> str:
    """Return the sentences under the title, from what was measured."""
    student, teacher = found.student, found.teacher
    name = f"{title_of(student.method)} at {counted(student.steps, 'step')}"
    than = f"the teacher at {teacher.steps}"
    speed = found.speed_up()
    how = f"makes an image {speed:.1f} times as fast as" if speed else "stands in for"
    words = f"{name} {how} {than}."
    told = [row.metrics.get("prompt_accuracy") for row in (student, teacher)]
    if told[0] and told[1]:
        ours, theirs = (shown("prompt_accuracy", metric.value) for metric in told if metric)
        words += f" {ours} of its images show everything that their prompt says, against {theirs}"
        words += " of the teacher’s."
    return words


def facts(found: Match) -> str:
    """Return the headline's numbers, large, each with what it is compared with."""
    teacher, student = found.teacher, found.student
    told = [("Network calls an image", str(student.calls), f"teacher {teacher.calls}")]
    for name, title in (
        ("seconds_per_image", "Seconds an image"),
        ("prompt_accuracy", "Prompts shown right"),
        ("frechet", "Fréchet distance"),
    ):
        ours, theirs = student.metrics.get(name), teacher.metrics.get(name)
        if ours and theirs:
            aside = f"{shown_range(name, ours)}; teacher {shown(name, theirs.value)}"
            told.append((title, shown(name, ours.value), aside))
    cells = (
        f"<div><dt>{escape(title)}</dt><dd>{escape(value)}<small>{escape(aside)}</small></dd></div>"
        for title, value, aside in told
    )
    return f'<dl class="facts">{"".join(cells)}</dl>\n'

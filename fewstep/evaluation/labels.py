"""What people read for the names that files use: methods, sources, numbers with intervals."""

from collections.abc import Sequence

from fewstep.evaluation.intervals import Interval
from fewstep.evaluation.metrics import METRICS, Metric
from fewstep.evaluation.results import Row
from fewstep.methods import method_title


def title_of(method: str) -> str:
    """Return the title of a method or of the teacher."""
    return "Teacher" if method == "teacher" else method_title(method)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "step"), counted(4, "step")
    ('1 step', '4 steps')
    """
    return f"{number} {noun}" + ("" if number == 1 else "s")


def capital(words: str) -> str:
    """Return words with their first letter large; the others stay as they are.

    >>> capital("the CD student")
    'The CD student'
    """
    return words[:1].upper() + words[1:]


def line_title(row: Row, rows: Sequence[Row]) -> str:
    """Name the line that a row belongs to in a plot: its method, with its source if several.

    A teacher's source is the model's name and how it is sampled; there is one model.
    """
    title = title_of(row.method)
    sources = {other.source for other in rows if other.method == row.method}
    if len(sources) == 1:
        return title
    how = row.source.partition(", ")[2]
    return f"{title}, {how}" if row.method == "teacher" and how else f"{title} ({row.source})"


def metric_title(name: str) -> str:
    """Return a metric's title; a part of one ("prompt_accuracy.shape") is named by its part.

    >>> metric_title("frechet"), metric_title("prompt_accuracy.shape"), metric_title("mine")
    ('Fréchet distance', 'shape', 'mine')
    """
    metric = METRICS.get(name)
    return metric.title if metric else name.rpartition(".")[2].replace("_", " ")


def known(name: str) -> Metric | None:
    """Return what is known of a metric; a part of one is measured as the whole is."""
    return METRICS.get(name.partition(".")[0])


def shown(name: str, number: float) -> str:
    """Write a number as its metric is written.

    >>> shown("prompt_accuracy", 0.7154), shown("frechet", 3.14159), shown("mine", 0.02)
    ('71.5%', '3.14', '0.02')
    """
    metric = known(name)
    return digits(name, number) + (metric.unit if metric else "")


def shown_range(name: str, interval: Interval) -> str:
    """Write an interval's two ends, the unit once.

    >>> shown_range("prompt_accuracy", Interval(0.7, 0.68, 0.72, 2000))
    '68.0 to 72.0%'
    """
    return f"{digits(name, interval.low)} to {shown(name, interval.high)}"


def digits(name: str, number: float) -> str:
    """Write a number without its unit, with a true minus sign and no negative zero."""
    metric = known(name)
    written = format(number * metric.scale, metric.show) if metric else format(number, ".3g")
    written = written.rstrip(".")  # of 123., as "#.3g" has it
    if float(written) == 0:
        written = written.lstrip("+-")
    return written.replace("-", "−") if "e" not in written else written

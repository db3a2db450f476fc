"""What people read for the names in files: methods, rows, metrics, numbers with intervals."""

from collections.abc import Sequence

from fewstep.console import counted
from fewstep.evaluation.intervals import Interval
from fewstep.evaluation.metrics import METRICS
from fewstep.evaluation.results import Row
from fewstep.methods import method_title


def title_of(method: str) -> str:
    """Return the title of a method or of the teacher."""
    return "Teacher" if method == "teacher" else method_title(method)


def capital(text: str) -> str:
    """Return the text with its first letter large; the others stay as they are.

    >>> capital("the CD student")
    'The CD student'
    """
    return text[:1].upper() + text[1:]


def cost(row: Row) -> str:
    """Return what one image of a row costs, as "4 steps, 4 NFE"."""
    if not row.calls:
        return "a folder"
    return f"{counted(row.steps, 'step')}, {row.calls} NFE"


def line_title(row: Row, rows: Sequence[Row]) -> str:
    """Return a row's line in a plot: its method, with its source if there are several.

    A teacher's source is the model's name and how it is sampled; there is one model.
    """
    title = title_of(row.method)
    if len({other.source for other in rows if other.method == row.method}) == 1:
        return title
    sampling = row.source.partition(", ")[2]
    is_teacher = row.method == "teacher" and sampling
    return f"{title}, {sampling}" if is_teacher else f"{title} ({row.source})"


def metric_title(name: str) -> str:
    """Return a metric's title; a part of one ("prompt_accuracy.shape") is named by its part.

    >>> metric_title("frechet"), metric_title("prompt_accuracy.shape"), metric_title("mine")
    ('Fréchet distance', 'shape', 'mine')
    """
    return METRICS[name].title if name in METRICS else name.rpartition(".")[2].replace("_", " ")


def shown(name: str, number: float) -> str:
    """Format a number as its metric says; a part of a metric is formatted as the whole.

    >>> shown("prompt_accuracy", 0.7154), shown("frechet", 3.14159), shown("mine", 0.02)
    ('71.5%', '3.14', '0.02')
    """
    metric = METRICS.get(name.partition(".")[0])
    return digits(name, number) + (metric.unit if metric else "")


def shown_range(name: str, interval: Interval) -> str:
    """Format an interval's two ends, the unit once; nothing where there is none.

    >>> shown_range("prompt_accuracy", Interval(0.7, 0.68, 0.72, 2000))
    '68.0 to 72.0%'
    """
    if interval.ends is None:
        return ""
    low, high = interval.ends
    return f"{digits(name, low)} to {shown(name, high)}"


def digits(name: str, number: float) -> str:
    """Format a number without its unit, with a true minus sign and no negative zero."""
    metric = METRICS.get(name.partition(".")[0])
    text = format(number * metric.scale, metric.show) if metric else format(number, ".3g")
    text = text.rstrip(".")  # of 123., as "#.3g" has it
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−") if "e" not in text else text

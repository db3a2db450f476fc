"""The report's plots: a metric against network calls, and losses against steps."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from fewstep.evaluation import METRICS
from fewstep.evaluation.labels import line_title, metric_title
from fewstep.evaluation.results import Row
from fewstep.evaluation.runs import TrainingRun
from fewstep.evaluation.svg import INK, drawn

LOOKS = {  # colour and marker: told apart without colour too
    "teacher": (INK, "o"),
    "ct": ("#d9822b", "s"),
    "cd": ("#3d8bfd", "D"),
    "multi-boundary-cd": ("#12a594", "^"),
    "multi-boundary-ct": ("#c2519b", "v"),
}
OTHER = ("#8e6fe0", "P")


def against_calls(rows: Sequence[Row], metric: str) -> str:
    """Draw a metric against network calls: a line a method, dashed for teachers, intervals as bars.

    Returns nothing where no row has the metric.
    """
    measured = [row for row in rows if metric in row.metrics]
    lines: dict[str, list[Row]] = {}
    for row in sorted(measured, key=lambda row: (order(row.method), row.calls)):
        lines.setdefault(line_title(row, rows), []).append(row)
    if not lines:
        return ""

    def draw(axes: Axes) -> None:
        for i, (title, line) in enumerate(lines.items()):
            aside = 2 ** (0.07 * (i - (len(lines) - 1) / 2))  # so that bars do not hide each other
            second = line[0].method in [other[0].method for other in list(lines.values())[:i]]
            draw_line(axes, title, line, metric, aside, hollow=second)
        ticks = apart(sorted({row.calls for row in measured}))
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, labels=[str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("network calls a picture")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}{unit}")

    unit = METRICS[metric].unit if metric in METRICS else ""
    return drawn(draw, f"{metric_title(metric)} against network calls")


def draw_line(
    axes: Axes, title: str, line: Sequence[Row], metric: str, aside: float, *, hollow: bool
) -> None:
    """Draw one method's values with their intervals, a little aside of the others."""
    scale = METRICS[metric].scale if metric in METRICS else 1
    measured = [row.metrics[metric] for row in line]
    value, low, high = np.array([[m.value, m.low, m.high] for m in measured]).T * scale
    colour, marker = LOOKS.get(line[0].method, OTHER)
    calls = np.array([row.calls for row in line]) * aside
    axes.errorbar(
        calls,
        value,
        np.maximum([value - low, high - value], 0),
        color=colour,
        elinewidth=1.3,
        capsize=2.5,
        linestyle="none",
    )
    axes.plot(
        calls,
        value,
        label=title,
        color=colour,
        marker=marker,
        markersize=5.5,
        markerfacecolor="none" if hollow else colour,
        linewidth=1.6,
        linestyle="--" if line[0].method == "teacher" else "-",
    )


def order(method: str) -> int:
    """Return a method's place among all, teachers first."""
    return list(LOOKS).index(method) if method in LOOKS else len(LOOKS)


def apart(ticks: Sequence[int]) -> list[int]:
    """Leave out ticks whose labels would touch, on a logarithmic axis.

    >>> apart([1, 2, 4, 8, 40, 50, 100])
    [1, 2, 4, 8, 50, 100]
    """
    kept: list[int] = []
    for tick in reversed(ticks):
        if not kept or kept[-1] / tick > 1.4:
            kept.append(tick)
    return kept[::-1]


def losses(runs: Sequence[TrainingRun]) -> str:
    """Draw each run's loss against its step, smoothed; seeds of one method share its colour."""
    runs = [run for run in runs if run.losses]
    if not runs:
        return ""

    def draw(axes: Axes) -> None:
        named: set[str] = set()
        for run in runs:
            colour, _ = LOOKS.get(run.method, OTHER)
            label = "_" if run.method in named else run.title
            axes.plot(run.steps, smooth(run.losses), color=colour, label=label, linewidth=1.4)
            named.add(run.method)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
        axes.set_xlabel("optimiser step")

    return drawn(draw, "Training loss")


def smooth(values: Sequence[float]) -> np.ndarray:
    """Return each value's geometric mean with its neighbours, a fiftieth of all to each side."""
    logs = np.log(np.maximum(values, 1e-12))
    reach = len(logs) // 50
    sums = np.concatenate([[0], np.cumsum(logs)])
    ends = np.minimum(np.arange(len(logs)) + reach + 1, len(logs))
    starts = np.maximum(np.arange(len(logs)) - reach, 0)
    return np.exp((sums[ends] - sums[starts]) / (ends - starts))

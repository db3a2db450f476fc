"""The report's plots: a metric against what an image costs, and losses against steps."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, Locator, LogLocator

from fewstep.evaluation.labels import line_title, metric_title
from fewstep.evaluation.metrics import METRICS
from fewstep.evaluation.report.runs import TrainingRun
from fewstep.evaluation.report.svg import INK, drawn
from fewstep.evaluation.results import Row

LOOKS = {  # colour and marker: told apart without colour too
    "teacher": (INK, "o"),
    "ct": ("#d9822b", "s"),
    "cd": ("#3d8bfd", "D"),
    "multi-boundary-cd": ("#12a594", "^"),
    "multi-boundary-ct": ("#c2519b", "v"),
}
OTHER = ("#8e6fe0", "P")
QUARTERS = ("least noise", "less", "more", "most noise")


def against_calls(rows: Sequence[Row], metric: str) -> str:
    """Draw a metric against network calls: a line a method, dashed for teachers, intervals as bars.

    Lines lie a little aside of each other, so that bars at the same number of calls can be told
    apart. Returns nothing where no row has the metric.
    """
    calls = sorted({row.calls for row in rows if metric in row.metrics})
    ticks = FixedLocator(apart(calls))
    return against(rows, metric, "network calls an image", lambda row: row.calls, ticks, 0.07)


def against_seconds(rows: Sequence[Row], metric: str) -> str:
    """Draw a metric against the seconds of an image, in the same way."""
    timed = [row for row in rows if {"seconds_per_image", metric} <= row.metrics.keys()]

    def seconds(row: Row) -> float:
        return row.metrics["seconds_per_image"].value

    return against(timed, metric, "seconds an image", seconds, LogLocator(10, (1, 2, 5)))


def against(
    rows: Sequence[Row],
    metric: str,
    cost_title: str,
    cost: Callable[[Row], float],
    ticks: Locator,
    shift: float = 0.0,
) -> str:
    """Draw a metric against a cost, each line `shift` octaves aside of the one before it."""
    measured = [row for row in rows if metric in row.metrics]
    lines: dict[str, list[Row]] = {}
    for row in sorted(measured, key=lambda row: (order(row.method), row.calls)):
        lines.setdefault(line_title(row, rows), []).append(row)
    if not lines:
        return ""

    def draw(axes: Axes) -> None:
        for i, (title, line) in enumerate(lines.items()):
            aside = 2 ** (shift * (i - (len(lines) - 1) / 2))
            before = [other[0].method for other in list(lines.values())[:i]]
            costs = np.array([cost(row) for row in line]) * aside
            draw_line(axes, title, line, metric, costs, before.count(line[0].method))
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(ticks)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
        axes.minorticks_off()
        axes.set_xlabel(cost_title)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}{unit}")

    unit = METRICS[metric].unit if metric in METRICS else ""
    return drawn(draw, f"{metric_title(metric)} against {cost_title}")


def draw_line(
    axes: Axes, title: str, line: Sequence[Row], metric: str, costs: np.ndarray, number: int
) -> None:
    """Draw one method's values at their costs, with their intervals."""
    scale = METRICS[metric].scale if metric in METRICS else 1
    measured = [row.metrics[metric] for row in line]
    value, low, high = np.array([[m.value, m.low, m.high] for m in measured]).T * scale
    colour, marker = LOOKS.get(line[0].method, OTHER)
    axes.errorbar(
        costs,
        value,
        np.maximum([value - low, high - value], 0),
        color=colour,
        elinewidth=1.3,
        capsize=2.5,
        linestyle="none",
    )
    axes.plot(
        costs,
        value,
        label=title,
        color=colour,
        marker=marker,
        markersize=5.5,
        markerfacecolor="none" if number else colour,
        linewidth=1.6,
        linestyle=":" if number > 1 else "--" if line[0].method == "teacher" else "-",
    )


def order(method: str) -> int:
    """Return a method's place among all, teachers first."""
    return list(LOOKS).index(method) if method in LOOKS else len(LOOKS)


def apart(ticks: Sequence[float]) -> list[float]:
    """Leave out ticks whose labels would touch, on a logarithmic axis.

    >>> apart([1, 2, 4, 8, 40, 50, 100])
    [1, 2, 4, 8, 50, 100]
    """
    kept: list[float] = []
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
        log_losses(axes)

    return drawn(draw, "Training loss")


def losses_by_noise(run: TrainingRun) -> str:
    """Draw a run's loss in each quarter of the noise levels, light for little noise."""
    if not any(run.by_noise):
        return ""

    def draw(axes: Axes) -> None:
        for quarter, (name, found) in enumerate(zip(QUARTERS, run.by_noise, strict=True)):
            if found:
                steps, values = zip(*found, strict=True)
                axes.plot(
                    steps, smooth(values), label=name, linewidth=1.4,
                    color=LOOKS.get(run.method, OTHER)[0], alpha=(1 + quarter) / 4,
                )  # fmt: skip
        log_losses(axes)

    return drawn(draw, f"Training loss of {run.name} by noise level")


def log_losses(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    axes.set_xlabel("optimiser step")


def smooth(values: Sequence[float]) -> np.ndarray:
    """Return each value's geometric mean with its neighbours, a fiftieth of all to each side."""
    logs = np.log(np.maximum(values, 1e-12))
    reach = len(logs) // 50
    sums = np.concatenate([[0], np.cumsum(logs)])
    ends = np.minimum(np.arange(len(logs)) + reach + 1, len(logs))
    starts = np.maximum(np.arange(len(logs)) - reach, 0)
    return np.exp((sums[ends] - sums[starts]) / (ends - starts))

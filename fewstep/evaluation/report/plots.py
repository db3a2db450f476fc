"""The report's plots: a metric against what an image costs, and losses against steps.

A plot is an inline SVG in the page's own text colour, readable in light and in dark.
"""

import re
from collections import Counter
from collections.abc import Sequence
from html import escape
from io import StringIO
from typing import Any, cast

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator

from fewstep.colours import BLUE, LAVENDER, MAGENTA, OLIVE, ORANGE, TEAL
from fewstep.evaluation.labels import line_title, metric_title
from fewstep.evaluation.metrics import METRICS
from fewstep.evaluation.report.runs import TrainingRun
from fewstep.evaluation.results import Row

INK = "#010203"  # stands for the page's text colour until the SVG is written
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10,
    "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8,
    "axes.grid": True, "axes.axisbelow": True,
    "grid.color": INK, "grid.alpha": 0.13, "grid.linewidth": 0.7,
    "xtick.color": INK, "ytick.color": INK, "xtick.major.size": 0, "ytick.major.size": 0,
    "legend.frameon": False, "legend.handlelength": 1.6,
}  # fmt: skip
LOOKS = {  # colour and marker: told apart without colour too
    "teacher": (INK, "o"),
    "ct": (ORANGE, "s"),
    "cd": (BLUE, "D"),
    "multi-boundary-cd": (TEAL, "^"),
    "multi-boundary-ct": (MAGENTA, "v"),
    "trajectory-matching": (OLIVE, "X"),
}
OTHER = (LAVENDER, "P")
QUARTERS = ("least noise", "less", "more", "most noise")


@rc_context(STYLE)
def against_cost(rows: Sequence[Row], metric: str, by_time: bool = False) -> str:
    """Draw a metric against NFE, or against seconds, with its intervals as bars.

    Teachers are dashed. Lines lie a little beside each other, so that bars at the same NFE can be
    told apart. Returns an empty string where no row has the metric.
    """
    if by_time:
        rows = [row for row in rows if "seconds_per_image" in row.metrics]
    measured = [row for row in rows if metric in row.metrics and row.calls]  # no folders
    lines: dict[str, list[Row]] = {}
    for row in sorted(measured, key=lambda row: (order(row.method), row.calls)):
        lines.setdefault(line_title(row, rows), []).append(row)
    if not lines:
        return ""
    axes, unit = new_axes(), METRICS[metric].unit if metric in METRICS else ""
    drawn: Counter[str] = Counter()
    for i, (title, line) in enumerate(lines.items()):
        costs = [row.metrics["seconds_per_image"].value if by_time else row.calls for row in line]
        shift = 0 if by_time else 0.07 * (i - (len(lines) - 1) / 2)  # in octaves
        draw_line(axes, title, line, metric, np.array(costs) * 2**shift, drawn[line[0].method])
        drawn[line[0].method] += 1
    calls = sorted({row.calls for row in measured})
    axes.set_xscale("log", base=2)
    ticks = LogLocator(10, (1, 2, 5)) if by_time else FixedLocator(apart(calls))
    axes.xaxis.set_major_locator(ticks)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    axes.minorticks_off()
    axes.set_xlabel("seconds an image" if by_time else "network evaluations an image")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}{unit}")
    return svg(axes, f"{metric_title(metric)} against {axes.get_xlabel()}")


def draw_line(
    axes: Axes, title: str, line: Sequence[Row], metric: str, costs: np.ndarray, number: int
) -> None:
    """Draw one line with its intervals; `number` counts the method's lines before it."""
    scale = METRICS[metric].scale if metric in METRICS else 1
    measured = [row.metrics[metric] for row in line]
    value, low, high = np.array([[m.value, m.low, m.high] for m in measured], float).T * scale
    colour, marker = LOOKS.get(line[0].method, OTHER)
    bars = np.maximum([value - low, high - value], 0)
    axes.errorbar(costs, value, bars, color=colour, elinewidth=1.3, capsize=2.5, linestyle="none")
    axes.plot(
        costs, value, label=title, color=colour, marker=marker, markersize=5.5,
        markerfacecolor="none" if number else colour, linewidth=1.6,
        linestyle=":" if number > 1 else "--" if line[0].method == "teacher" else "-",
    )  # fmt: skip


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


@rc_context(STYLE)
def losses(runs: Sequence[TrainingRun]) -> str:
    """Draw each run's loss against its step, smoothed; seeds of one method share its colour."""
    runs = [run for run in runs if run.losses]
    if not runs:
        return ""
    axes, named = new_axes(), set()
    for run in runs:
        label = "_" if run.method in named else run.title
        colour, _ = LOOKS.get(run.method, OTHER)
        axes.plot(run.steps, smooth(run.losses), color=colour, label=label, linewidth=1.4)
        named.add(run.method)
    log_losses(axes)
    return svg(axes, "Training loss")


@rc_context(STYLE)
def losses_by_noise(run: TrainingRun) -> str:
    """Draw a run's loss in each quarter of the noise levels, light for little noise."""
    if not any(run.by_noise):
        return ""
    axes, (colour, _) = new_axes(), LOOKS.get(run.method, OTHER)
    for quarter, (label, curve) in enumerate(zip(QUARTERS, run.by_noise, strict=True), 1):
        if curve:
            steps, values = zip(*curve, strict=True)
            axes.plot(steps, smooth(values), label=label, linewidth=1.4,
                      color=colour, alpha=quarter / 4)  # fmt: skip
    log_losses(axes)
    return svg(axes, f"Training loss of {run.name} by noise level")


@rc_context(STYLE)
def images_over_training(runs: Sequence[TrainingRun]) -> str:
    """Draw diversity (whole lines) and contrast (dashed) of each run's images against its step.

    The teacher's are 1. Returns an empty string where no run looked at its images.
    """
    runs = [run for run in runs if any(run.images.values())]
    if not runs:
        return ""
    axes, named = new_axes(), set()
    axes.axhline(1, color=INK, linewidth=0.8)
    for run in runs:
        colour, marker = LOOKS.get(run.method, OTHER)
        for (name, points), style in zip(run.images.items(), ("-", "--"), strict=True):
            label = "_" if (run.method, name) in named else f"{run.title}, {name}"
            axes.plot(*zip(*points, strict=True), color=colour, label=label, linestyle=style,
                      linewidth=1.4, marker=marker, markersize=4)  # fmt: skip
            named.add((run.method, name))
    axes.set_xlabel("optimiser step")
    return svg(axes, "Diversity and contrast of the student's images, the teacher's being 1")


def log_losses(axes: Axes) -> None:
    """Set up the axes of losses: logarithmic, by optimiser step."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="optimiser step", ylabel="loss")


def smooth(values: Sequence[float]) -> np.ndarray:
    """Return each value's geometric mean with its neighbours, a fiftieth of all to each side."""
    logs = np.log(np.maximum(values, 1e-12))
    reach = len(logs) // 50
    sums = np.concatenate([[0], np.cumsum(logs)])
    ends = np.minimum(np.arange(len(logs)) + reach + 1, len(logs))
    starts = np.maximum(np.arange(len(logs)) - reach, 0)
    return np.exp((sums[ends] - sums[starts]) / (ends - starts))


def new_axes() -> Axes:
    """Return the axes of a new figure; call it, draw, and call `svg` with STYLE set."""
    return Figure(figsize=(4.9, 3.3), layout="constrained").subplots()


def svg(axes: Axes, title: str) -> str:
    """Return the SVG element: no outside reference, no unused ids, the same every time."""
    figure, buffer = cast(Figure, axes.figure), StringIO()
    figure.legend(loc="outside upper left", ncols=2, columnspacing=1.4, labelspacing=0.35)
    with rc_context({"svg.hashsalt": title}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    used = set(re.findall(r"#([\w-]+)", text))
    text = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", text)
    name = f'role="img" aria-label="{escape(title)}"'
    return re.sub(r'width="[^"]+" height="[^"]+"', lambda _: name, text, count=1)

"""The ladder as a plot: speed and memory of each design, relative to the baseline."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BASELINE, OURS, OTHER = "#8a8f98", "#12a594", "#9fd5cd"


def draw(results: dict, out: Path) -> None:
    """Draw a column per batch size: speed above, memory below."""
    rows = [row for row in results["rows"] if "failed" not in row]
    sizes = sorted({row["batch_size"] for row in rows})
    height = 0.9 + 0.34 * max(sum(row["batch_size"] == size for row in rows) for size in sizes)
    figure = Figure(figsize=(6.4 * len(sizes), 2 * height), layout="constrained", dpi=150)
    panels = figure.subplots(2, len(sizes), squeeze=False)
    for column, size in enumerate(sizes):
        group = [row for row in rows if row["batch_size"] == size]
        speed(panels[0, column], group, f"batch {size}")
        memory(panels[1, column], group)
    work = results["work"]
    figure.suptitle(
        f"{work['model']}, {work['resolution']} px, {work['precision']}, LoRA rank {work['rank']}\n"
        f"{results['machine']}",
        fontsize=9,
    )
    figure.savefig(out)


def speed(axes: Axes, rows: list[dict], title: str) -> None:
    """Draw the speed of each design relative to the baseline, with intervals."""
    ones = {"value": 1.0, "low": 1.0, "high": 1.0}
    found = [row.get("speed_up", ones) for row in rows]
    values, low, high = (np.array([f[end] for f in found]) for end in ("value", "low", "high"))
    bars(axes, rows, values, high, [f"{value:.2f}×" for value in values])
    axes.errorbar(
        values, range(len(rows)), xerr=[values - low, high - values], fmt="none", ecolor="#16181d",
        elinewidth=1, capsize=2,
    )  # fmt: skip
    axes.set_title(f"speed relative to the reference, {title}", loc="left", fontsize=10)


def memory(axes: Axes, rows: list[dict]) -> None:
    """Draw the peak memory, and the part of it that does not depend on the batch."""
    peak, static = (
        np.array([row[k] / 1e9 for row in rows]) for k in ("peak_bytes", "static_bytes")
    )
    labels = [f"{s:.2f} of {p:.2f} GB" for s, p in zip(static, peak, strict=True)]
    bars(axes, rows, peak, peak, labels)
    axes.barh(range(len(rows)), static, color="#16181d", alpha=0.25, height=0.7)
    axes.set_title("peak memory; shaded: independent of the batch", loc="left", fontsize=10)


def bars(
    axes: Axes, rows: list[dict], values: np.ndarray, ends: np.ndarray, labels: list[str]
) -> None:
    """Draw a bar per row, with a label after `ends`, so that intervals do not cover it."""
    colours = [BASELINE if "reference" in row["design"] else
               OURS if row["design"].startswith("fewstep") else OTHER for row in rows]  # fmt: skip
    axes.barh(range(len(rows)), values, color=colours, height=0.7)
    axes.bar_label(axes.barh(range(len(rows)), ends, alpha=0), labels, padding=6, fontsize=8)
    axes.set_yticks(range(len(rows)), [row["design"] for row in rows], fontsize=8)
    axes.set_xlim(0, ends.max() * 1.25)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=8)

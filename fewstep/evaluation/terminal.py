"""The results table for a terminal."""

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fewstep.evaluation.intervals import SMALLEST_N
from fewstep.evaluation.labels import cost, line_title, metric_title, shown, shown_range
from fewstep.evaluation.metrics import METRICS, SHIPPED
from fewstep.evaluation.results import Results, metric_names, overview

COLUMNS = (
    "prompt_accuracy", "prompt_accuracy_difference", "frechet", "fid", "clip_score",
    "same_noise_rmse", "seconds_per_image", "latent_frechet", "self_consistency",
)  # fmt: skip
METHOD_WIDTH, WIDTH = 34, 20
"""Of the methods' column and of each other, in characters, with the space between."""


def summary(results: Results, width: int = 120) -> Table:
    """Return a table of the pooled rows: each value, and below it its 95 % interval, if any.

    It has as many columns as fit the width, metrics added to METRICS from outside first; the
    report shows all.
    """
    rows = overview(results.rows)
    most = max(1, (width - METHOD_WIDTH) // WIDTH)
    measured = metric_names(rows)
    added = [name for name in measured if name in METRICS and name not in SHIPPED]
    names = [*added, *(name for name in COLUMNS if name in measured)][:most]
    table = Table(title=f"protocol {results.protocol}", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("method", min_width=20)
    for title in map(metric_title, names):
        table.add_column(title, justify="right")
    for row in rows:
        cells = [(line_title(row, rows), cost(row))]
        for name in names:
            metric = row.metrics.get(name)
            known = metric and (shown(name, metric.value), shown_range(name, metric))
            cells.append(known or ("–", ""))
        first, *others = cells
        table.add_row(
            Text(first[0]).append(f"\n{first[1]}", "dim"),
            *(Text(value, "bold").append(f"\n{ends}", "dim") for value, ends in others),
        )
    counts = sorted({m.n for row in rows for name, m in row.metrics.items() if name in names})
    of = f"95% intervals where n is {SMALLEST_N} or more"
    table.caption = f"{of}; n = {', '.join(f'{n:,}' for n in counts)} images"
    table.caption_justify = "left"
    return table


def unmeasured(results: Results) -> list[str]:
    """Return the metrics that could not be measured, a line for each reason."""
    titles: dict[str, list[str]] = {}
    for name, why in results.unavailable.items():
        titles.setdefault(why, []).append(metric_title(name))
    return [f"{', '.join(names)}: unavailable, {why}" for why, names in titles.items()]

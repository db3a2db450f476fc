"""Results and images as one HTML file that needs nothing else; no measurement is made here."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fewstep.evaluation.labels import capital, metric_title
from fewstep.evaluation.metrics import METRICS
from fewstep.evaluation.report.headline import facts, headline, lead, match
from fewstep.evaluation.report.page import figure, folded, page, pairs, section
from fewstep.evaluation.report.plots import against_calls, against_seconds, losses, losses_by_noise
from fewstep.evaluation.report.runs import TrainingRun
from fewstep.evaluation.report.tables import table
from fewstep.evaluation.results import Results, Row, metric_names, overview
from fewstep.files import write_file
from fewstep.images import Images, check, png

PLOTTED = ("prompt_accuracy", "frechet", "fid", "clip_score", "latent_frechet")


@dataclass(frozen=True)
class Comparison:
    """Images of the same prompts from the same starting noises, one column a source.

    Raises:
        ValueError: if a column does not have one image a prompt.
    """

    prompts: Sequence[str]
    columns: Mapping[str, Images]

    def __post_init__(self) -> None:
        check(self.columns, self.prompts)


def report(
    results: Results, comparison: Comparison | None, runs: Sequence[Path], out: Path
) -> Path:
    """Write the report on results, images, and the runs' folders (settings and losses).

    Raises:
        UserError: if a run's folder is not one, or damaged.
        OSError: if `out` cannot be written to.
    """
    trained = [TrainingRun.read(folder) for folder in runs]
    found = match(results.rows)
    title = headline(found) if found else "Results"
    parts = [
        f'<header><p class="eyebrow">fewstep report · protocol {escape(results.protocol)}</p>\n',
        f"<h1>{escape(title)}</h1>\n",
        f'<p class="lead">{escape(lead(found))}</p>{facts(found)}' if found else "",
        "</header>\n",
        images(comparison) if comparison else "",
        measured(results),
        training(trained),
        provenance(results),
    ]
    write_file(out, page(f"{title} · fewstep", *parts))
    return out


def images(comparison: Comparison) -> str:
    """Show each prompt's images side by side."""
    heads = "".join(map(column_head, comparison.columns))
    rows = "".join(
        f"<p>{escape(prompt)}</p>"
        + "".join(image(column[i], prompt) for column in comparison.columns.values())
        for i, prompt in enumerate(comparison.prompts)
    )
    style = f"grid-template-columns: repeat({len(comparison.columns)}, minmax(0, 1fr))"
    return section(
        "Same prompt, same noise",
        "<p>All images of a row start from the same noise; only the way from there differs.</p>",
        f'<div class="images" style="{style}">{heads}{rows}</div>',
    )


def column_head(title: str) -> str:
    """Return a column's title, what follows its comma in small print."""
    name, _, more = title.partition(", ")
    return f"<b>{escape(name)}<small>{escape(more)}</small></b>"


def image(image: NDArray[np.uint8], prompt: str) -> str:
    """Return an image inside the page."""
    data = b64encode(png(image)).decode()
    return f'<img alt="{escape(prompt)}" src="data:image/png;base64,{data}">'


def measured(results: Results) -> str:
    """Show the plots and the tables of all rows."""
    rows = overview(results.rows)
    names = metric_names(rows)
    main = [name for name in names if "." not in name]
    parts = [name for name in names if "." in name]
    seeds = [row for row in results.rows if row not in rows]
    plots = "".join(quality_plots(rows, name) for name in PLOTTED)
    note = "Below each value its 95% interval; n is the number of images."
    if seeds:
        note += (
            " Several trainings of one method are pooled, and the intervals allow for the spread"
        )
        note += " between them."
    return section(
        "Results",
        f'<div class="plots">{plots}</div>' if plots else "",
        table(rows, main),
        f'<p class="quiet">{note}</p>',
        folded("Accuracy by what is claimed", table(rows, parts)) if parts else "",
        folded("Each training seed", table(seeds, main)) if seeds else "",
    )


def quality_plots(rows: Sequence[Row], name: str) -> str:
    """Draw a metric against network calls and against seconds."""
    words = f"{capital(METRICS[name].better)} is better. Bars are 95% intervals."
    title = metric_title(name)
    calls = figure(against_calls(rows, name), title, words)
    return calls + figure(against_seconds(rows, name), f"{title}, by time", words)


def training(runs: Sequence[TrainingRun]) -> str:
    """Show how the students were trained: losses, also by noise level, and settings."""
    plot = figure(
        losses(runs),
        "Loss",
        "Smoothed. Each method has a loss of its own: compare shapes, not heights.",
    )
    each = (folded(f"{run.name}: loss by noise level, settings", one_run(run)) for run in runs)
    return section("Training", f'<div class="plots">{plot}</div>' if plot else "", *each)


def one_run(run: TrainingRun) -> str:
    """Show one run's loss by noise level, and its settings."""
    plot = figure(
        losses_by_noise(run),
        "Loss by noise level",
        "Smoothed. A quarter of the timesteps each; the darker, the noisier.",
    )
    return f'<div class="plots">{plot}</div><pre>{escape(run.settings)}</pre>'


def provenance(results: Results) -> str:
    """Show what the numbers come from and what they mean."""
    meanings = {
        metric_title(name): f"{capital(METRICS[name].meaning)}. "
        f"{capital(METRICS[name].better)} is better."
        for name in metric_names(results.rows)
        if name in METRICS
    }
    return section(
        "How it was measured",
        pairs(
            {
                "Protocol": results.protocol,
                "Machine": results.machine,
                "Commit": results.commit,
                **({"What measuring took": results.cost} if results.cost else {}),
            }
        ),
        f"<pre>{escape(results.command)}</pre>\n",
        unavailable(results),
        f"<h3>What the numbers mean</h3>{pairs(meanings)}" if meanings else "",
    )


def unavailable(results: Results) -> str:
    """Name the metrics of the protocol that were not measured, and how to change that."""
    if not results.unavailable:
        return ""
    reasons = {metric_title(name): capital(why) for name, why in results.unavailable.items()}
    return f"<h3>Not measured</h3>{pairs(reasons)}"

"""`fewstep report`: evaluations, comparisons and runs, found in folders, as one HTML file."""

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fewstep.errors import UserError
from fewstep.evaluation import labels
from fewstep.evaluation.comparison import (
    COMPARISON,
    COMPARISON_FILE,
    Comparison,
    load_comparison,
)
from fewstep.evaluation.intervals import SMALLEST_N
from fewstep.evaluation.labels import capital, metric_title
from fewstep.evaluation.metrics import METRICS
from fewstep.evaluation.report.headline import facts, headline, lead, match
from fewstep.evaluation.report.plots import (
    against_cost,
    images_over_training,
    losses,
    losses_by_noise,
)
from fewstep.evaluation.report.runs import TrainingRun
from fewstep.evaluation.results import Results, Row, joined, load, metric_names, overview
from fewstep.files import write_file
from fewstep.images import png

PLOTTED = ("prompt_accuracy", "frechet", "fid", "clip_score", "latent_frechet")


def write_report(folders: Sequence[Path], out: Path) -> Path:
    """Put what the folders hold into the file `out`; the first images found are shown.

    Raises:
        UserError: if a folder holds neither results nor a run, or there are no results at all.
    """
    evaluated = [folder for folder in folders if (folder / "results.json").is_file()]
    runs = [folder for folder in folders if (folder / "config.toml").is_file()]
    for folder in folders:
        if folder not in evaluated and folder not in runs:
            raise UserError(f"{folder} holds neither results.json nor a run's config.toml")
    if not evaluated:
        raise UserError("there are no results to report; run fewstep evaluate or compare first")
    with_images = [folder for folder in evaluated if (folder / COMPARISON_FILE).is_file()]
    comparison = load_comparison(with_images[0]) if with_images else None
    loaded = [load(folder / "results.json") for folder in evaluated]
    measured = [results for results in loaded if not results.protocol.startswith(COMPARISON)]
    results = joined(measured or loaded)  # beside an evaluation a comparison gives its images
    return report(results, comparison, runs, out)


def report(
    results: Results, comparison: Comparison | None, runs: Sequence[Path], out: Path
) -> Path:
    """Write the report on results, images, and the runs' folders (settings and losses).

    Raises:
        UserError: if a run's folder is not one, or damaged.
        OSError: if `out` cannot be written to.
    """
    found, rows = match(results.rows), overview(results.rows)
    names = metric_names(rows)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals |= {
        "labels": labels, "smallest_n": SMALLEST_N, "image_counts": image_counts,
        "png_base64": png_base64, "losses": losses, "losses_by_noise": losses_by_noise,
        "images_over_training": images_over_training,
    }  # fmt: skip
    page = environment.get_template("report.html.jinja").render(
        title=headline(found) if found else "Results",
        lead=lead(found) if found else "",
        facts=facts(found) if found else (),
        comparison=comparison,
        results=results,
        rows=rows,
        seeds=[row for row in results.rows if row not in rows],
        metrics=[name for name in names if "." not in name],
        parts=[name for name in names if "." in name],
        plots=quality_plots(rows),
        runs=[TrainingRun.read(folder) for folder in runs],
        setting={
            "Protocol": results.protocol,
            "Machine": results.machine,
            "Commit": results.commit,
            **({"What measuring took": results.cost} if results.cost else {}),
        },
        unavailable={metric_title(name): capital(why) for name, why in results.unavailable.items()},
        meanings={
            metric_title(name): f"{capital(METRICS[name].meaning)}. {better(name)}."
            for name in metric_names(results.rows)
            if name in METRICS
        },
    )
    write_file(out, page)
    return out


def quality_plots(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """Return title, caption and SVG of the main metrics against NFE and against seconds."""
    plots = []
    for name in PLOTTED:
        title, caption = metric_title(name), f"{better(name)}. Bars are 95% intervals."
        plots.append((title, caption, against_cost(rows, name)))
        plots.append((f"{title}, by time", caption, against_cost(rows, name, by_time=True)))
    return plots


def better(name: str) -> str:
    """Return "Higher is better" or what else holds for a metric."""
    return f"{capital(METRICS[name].better)} is better"


def image_counts(rows: Sequence[Row], name: str) -> list[int]:
    """Return the numbers of images that the rows' values of a metric come from."""
    return sorted({row.metrics[name].n for row in rows if name in row.metrics})


def png_base64(image) -> str:
    """Return an image uint8 [H, W, 3] as PNG in base64, for a data URI."""
    return b64encode(png(image)).decode()

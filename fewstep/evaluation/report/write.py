"""`fewstep report`: evaluations, comparisons and runs, found in folders, as one HTML file."""

from collections.abc import Sequence
from pathlib import Path

from fewstep.errors import UserError
from fewstep.evaluation.compare import COMPARISON, COMPARISON_FILE, load_comparison
from fewstep.evaluation.report.html import report
from fewstep.evaluation.results import joined, load


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
    imaged = [folder for folder in evaluated if (folder / COMPARISON_FILE).is_file()]
    comparison = load_comparison(imaged[0]) if imaged else None
    loaded = [load(folder / "results.json") for folder in evaluated]
    measured = [results for results in loaded if not results.protocol.startswith(COMPARISON)]
    results = joined(measured or loaded)  # beside an evaluation a comparison gives its images
    return report(results, comparison, runs, out)

"""The truth bench: every part of the error, measured where the truth is known exactly."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from fewstep.evaluation.provenance import commit, machine
from fewstep.files import write_file
from fewstep.verify.effort import FULL, QUICK, Effort, Track
from fewstep.verify.measurements import (
    measure_bias,
    measure_flow,
    measure_mismatch,
    measure_solvers,
)
from fewstep.verify.network_error import measure_networks
from fewstep.verify.plot import plot
from fewstep.verify.predictions import (
    PREDICTIONS,
    QUICK_PREDICTIONS,
    check_predictions,
    unexplained,
)
from fewstep.verify.tables import TABLES, rich_table


def verify(quick: bool = False, out: Path | None = None) -> dict[str, Any]:
    """Run the bench and print its tables; write verify.json and verify.png into `out`."""
    console = Console()
    with Progress(console=console) as progress:
        results = measure(QUICK if quick else FULL, progress.track)
    for table in TABLES.values():
        console.print(rich_table(table(results)))
    console.print(verdict(results))
    if out is not None:
        save(results, out)
        console.print(f"wrote {out / 'verify.json'} and {out / 'verify.png'}")
    return results


def verdict(results: dict[str, Any]) -> str:
    """Return how many predictions hold, and whether those that do not are explained."""
    claims, holding = results["predictions"], sum(p["holds"] for p in results["predictions"])
    if failed := unexplained(results):
        return f"{len(failed)} of {len(claims)} predictions fail: {'; '.join(failed)}."
    known = "" if holding == len(claims) else "; the reasons of the others are known, as above"
    return f"{holding} of {len(claims)} predictions hold{known}."


def measure(effort: Effort, track: Track) -> dict[str, Any]:
    """Return all results, on one thread: a second one only slows networks this small down."""
    threads, started = torch.get_num_threads(), time.process_time()
    torch.set_num_threads(1)
    try:
        results: dict[str, Any] = {
            "command": "fewstep verify" + (" --quick" if effort == QUICK else "") + " -o DIR",
            "commit": commit(),
            "machine": machine(),
            "num_samples": effort.num_samples,
            "flow": measure_flow(effort),
            "solvers": measure_solvers(effort, track),
            "bias": measure_bias(effort, track),
            "mismatch": measure_mismatch(effort, track),
            "networks": measure_networks(effort, track),
        }
    finally:
        torch.set_num_threads(threads)
    claims = QUICK_PREDICTIONS if effort == QUICK else PREDICTIONS
    results["predictions"] = check_predictions(results, claims)
    results["cpu_seconds"] = round(time.process_time() - started)
    return results


def save(results: dict[str, Any], out: Path) -> None:
    """Write the results and the plot."""
    write_file(out / "verify.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    plot(results, out / "verify.png")

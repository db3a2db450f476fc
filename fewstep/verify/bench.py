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
from fewstep.verify.mismatch import measure_mismatch
from fewstep.verify.network_error import measure_networks
from fewstep.verify.objective_bias import measure_bias
from fewstep.verify.predictions import judge
from fewstep.verify.solver_error import measure_flow, measure_solvers
from fewstep.verify.tables import TABLES, rich_table


def verify(quick: bool = False, out: Path | None = None) -> dict[str, Any]:
    """Run the bench and print its tables; write verify.json and verify.png into `out`."""
    console = Console()
    with Progress(console=console) as progress:
        results = measure(QUICK if quick else FULL, progress.track)
    for table in TABLES.values():
        console.print(rich_table(table(results)))
    if quick:
        console.print("A quick run trains its networks too little for what is predicted of them.")
    if out is not None:
        save(results, out)
        console.print(f"wrote {out / 'verify.json'} and {out / 'verify.png'}")
    return results


def measure(effort: Effort, track: Track) -> dict[str, Any]:
    """Return all results, on one thread: networks this small only wait for each other on two."""
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
    results["predictions"] = judge(results)
    results["cpu_seconds"] = round(time.process_time() - started)
    return results


def save(results: dict[str, Any], out: Path) -> None:
    """Write the results and the plot."""
    from fewstep.verify.plot import plot  # matplotlib loads only here

    write_file(out / "verify.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    plot(results, out / "verify.png")

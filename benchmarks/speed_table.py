"""A table of designs, each timed in alternation with the first one: arguments, rows, file."""

import argparse
import gc
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.speed_models import SIZES, save_pipeline
from benchmarks.speed_plot import draw
from benchmarks.speed_turns import (
    WorkFailed,
    flops_of,
    in_turns,
    matmul_rate,
    median,
    peak_bytes,
    reset_peak,
    started,
    timed,
)
from benchmarks.speed_work import DTYPES, Setting
from fewstep.evaluation.provenance import commit, machine
from fewstep.files import check_writable, write_file

AGREEMENT = {"fp32": 1e-3, "bf16": 0.2, "fp16": 0.05}
"""The largest relative difference of a design's output from the baseline's, from rounding."""
WARM_UP = 2
ROOT = Path(__file__).resolve().parent.parent
Worker = Callable[[Connection, str, Setting], None]


def serve(
    pipe: Connection,
    setting: Setting,
    name: str,
    step: Callable[[], object],
    output: Mapping[str, Tensor],
    static_bytes: Callable[[], int],
    counts: bool = True,
) -> None:
    """Send the cost and the output of a design, and take steps on request; see `started`.

    An empty output is not compared. `counts` is whether torch computes it and so can count it.
    """
    file = Path(setting.folder) / f"{name}.safetensors"
    save_file({n: value.float().cpu().contiguous() for n, value in output.items()}, file)
    del output
    with torch.compiler.set_stance("force_eager"):
        flops = flops_of(step) if counts else None
    timed(step, WARM_UP, setting.device)
    gc.collect()
    reset_peak(setting.device)
    pipe.send({"flops": flops, "static_bytes": static_bytes(), "output": str(file)})
    while count := pipe.recv():
        if setting.device == "cuda":
            timed(step, 1, "cuda")  # allocates the memory again that it freed
        pipe.send(timed(step, count, setting.device))
        if setting.device == "cuda":
            torch.cuda.empty_cache()
    pipe.send(peak_bytes(setting.device))


def rows_of(
    worker: Worker, names: Sequence[str], setting: Setting, rounds: int, steps: int
) -> list[dict]:
    """Return a row for each design; the first is the baseline, timed in turns with every other.

    Raises:
        WorkFailed: if the baseline cannot run; other designs' failures are rows.
    """
    baseline, *others = names
    rows, alone = [], []
    with started(worker, baseline, setting) as base:
        report = base.receive()
        for name in others:
            try:
                with started(worker, name, setting) as remote:
                    own = remote.receive()
                    error = disagreement(report, own, AGREEMENT[setting.precision])
                    ours, theirs = in_turns(remote, base, rounds, steps)
                    row = costs(own, ours, remote.peak(), setting) | {"disagreement": error}
                row["speed_up"] = median([b / a for a, b in zip(ours, theirs, strict=True)])
                alone += theirs
            except WorkFailed as failure:
                row = {"failed": str(failure)}
            rows.append({"design": name, "batch_size": setting.batch_size} | row)
            print(summary(rows[-1]), file=sys.stderr)
        row = costs(report, alone or base.seconds(rounds), base.peak(), setting)
    return [{"design": baseline, "batch_size": setting.batch_size} | row, *rows]


def disagreement(baseline: dict, own: dict, tolerance: float) -> float | None:
    """Return the relative difference of a design's output from the baseline's.

    Raises:
        WorkFailed: if it is above the tolerance: then the two do not do the same work.
    """
    theirs, ours = (load_file(report["output"]) for report in (baseline, own))
    Path(own["output"]).unlink()
    if not ours or not theirs:
        return None
    if theirs.keys() != ours.keys():
        raise WorkFailed("its output has other tensors than the baseline's")
    squares = sum((ours[n] - theirs[n]).double().square().sum().item() for n in theirs)
    error = (squares / sum(g.double().square().sum().item() for g in theirs.values())) ** 0.5
    if not error < tolerance:
        raise WorkFailed(f"its output is off by {error:.1%} of the baseline's")
    return error


def costs(report: dict, seconds: Sequence[float], peak: int, setting: Setting) -> dict:
    """Return the cost of a step: its time, speed, memory and operations."""
    time = median(seconds)
    return {
        "seconds": time,
        "images_per_second": setting.batch_size / time["value"],
        "flops": report["flops"],
        "flops_per_second": report["flops"] and report["flops"] / time["value"],
        "static_bytes": report["static_bytes"],
        "peak_bytes": peak,
    }


def summary(row: dict) -> str:
    """Return a row as a sentence."""
    what = f"batch {row['batch_size']}, {row['design']}"
    if "failed" in row:
        return f"{what}: failed: {row['failed']}"
    static, peak = row["static_bytes"] / 1e9, row["peak_bytes"] / 1e9
    return (
        f"{what}: {row['images_per_second']:.3g} images/s, {row['speed_up']['value']:.2f} times "
        f"the baseline; {static:.2f} GB without the batch, {peak:.2f} GB peak"
    )


def measure(
    args: argparse.Namespace, worker: Worker, names: Sequence[str],
    prepare: Callable[[Setting], None] = lambda setting: None,
) -> Path:  # fmt: skip
    """Time the designs at every batch size; write the results and their plot."""
    check_writable(args.out.parent)
    torch.set_num_threads(args.threads)
    rate = matmul_rate(args.device, DTYPES[args.precision])
    rows = []
    with TemporaryDirectory(prefix="fewstep-speed-") as folder:
        save_pipeline(args.model, Path(folder))
        settings = [setting_of(args, folder, size) for size in args.batch_sizes]
        prepare(settings[0])
        work = {k: v for k, v in asdict(settings[0]).items() if k not in ("folder", "batch_size")}
        results = {
            "command": f"python -m benchmarks.{Path(sys.argv[0]).stem} {shlex.join(sys.argv[1:])}",
            "commit": commit(),
            "machine": machine(),
            "work": work,
            "matmul_flops_per_second": rate,
            "rows": rows,
        }
        for setting in settings:
            try:
                rows += rows_of(worker, names, setting, args.rounds, args.steps)
            except (
                WorkFailed
            ) as failure:  # of the baseline: there is nothing to compare with at this size
                row = {"design": names[0], "batch_size": setting.batch_size, "failed": str(failure)}
                rows.append(row)
                print(summary(row), file=sys.stderr)
            write_file(args.out, json.dumps(results, indent=1) + "\n")
    draw(results, plot_of(args.out))
    return args.out


def plot_of(out: Path) -> Path:
    """Return the file of the plot: next to the results, or in docs/images for committed ones."""
    is_committed = out.resolve().parent == ROOT / "benchmarks" / "results"
    return (ROOT / "docs" / "images" / out.name if is_committed else out).with_suffix(".png")


def setting_of(args: argparse.Namespace, folder: str, batch_size: int) -> Setting:
    return Setting(
        model=args.model, folder=folder, device=args.device, precision=args.precision,
        batch_size=batch_size, rank=args.rank, threads=args.threads,
        memory_cap=args.memory_cap,
        resolution=args.resolution or SIZES[args.model].resolution,
    )  # fmt: skip


def arguments(
    about: str | None, designs: Sequence[str], batch_sizes: Sequence[int], steps: int
) -> argparse.Namespace:
    """Read the command line, and exit with a message if it is wrong."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=SIZES, default="tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=DTYPES, default="fp32")
    parser.add_argument(
        "--designs",
        nargs="+",
        choices=designs,
        metavar="DESIGN",
        help=f"the first is the baseline; of: {', '.join(designs)}",
    )
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=batch_sizes)
    parser.add_argument("--resolution", type=int, help="side of an image; default: the model's")
    parser.add_argument("--rank", type=int, default=64, help="of the LoRA")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each design")
    parser.add_argument("--steps", type=int, default=steps, help="steps per turn")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory-cap", type=float, help="GB that a design may use of the GPU")
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda, but torch finds no GPU; use --device cpu")
    if args.memory_cap is not None and args.device != "cuda":
        parser.error("--memory-cap is for a GPU; add --device cuda")
    if args.memory_cap is not None:
        whole = torch.cuda.get_device_properties(0).total_memory / 1e9
        if not 0 < args.memory_cap <= whole:
            parser.error(f"--memory-cap is {args.memory_cap}; this GPU has {whole:.1f} GB")
    if min(*args.batch_sizes, args.rounds, args.steps, args.rank, 1) < 1:
        parser.error("--batch-sizes, --rounds, --steps and --rank have to be 1 or more")
    if args.resolution and args.resolution % 64:
        parser.error(f"--resolution is {args.resolution}; it has to be a multiple of 64")
    return args

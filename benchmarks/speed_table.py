"""A table of designs, each timed in turns with the first one: the command, the rows, the file."""

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
    forget_peak,
    in_turns,
    matmul_rate,
    median,
    peak_bytes,
    started,
    timed,
)
from benchmarks.speed_work import DTYPES, Setting
from fewstep.evaluation.provenance import commit, machine
from fewstep.files import check_writable, write_file

AGREEMENT = {"fp32": 1e-3, "bf16": 0.2, "fp16": 0.05}
"""How far an outcome may be from the baseline's, relative to it: only rounding differs."""
WARM_UP = 2
ROOT = Path(__file__).resolve().parent.parent
Worker = Callable[[Connection, str, Setting], None]


def serve(
    pipe: Connection,
    setting: Setting,
    name: str,
    step: Callable[[], object],
    outcome: Mapping[str, Tensor],
    static_bytes: Callable[[], int],
) -> None:
    """Tell what a design costs and gives, and take steps when asked to; see `started`.

    An empty outcome is not compared.
    """
    file = Path(setting.folder) / f"{name}.safetensors"
    save_file({n: value.float().cpu().contiguous() for n, value in outcome.items()}, file)
    del outcome
    with torch.compiler.set_stance("force_eager"):
        flops = flops_of(step)
    timed(step, WARM_UP, setting.device)
    gc.collect()
    forget_peak(setting.device)
    pipe.send({"flops": flops, "static_bytes": static_bytes(), "outcome": str(file)})
    while count := pipe.recv():
        if setting.device == "cuda":
            timed(step, 1, "cuda")  # asks for the memory that it gave back
        pipe.send(timed(step, count, setting.device))
        if setting.device == "cuda":
            torch.cuda.empty_cache()
    pipe.send(peak_bytes(setting.device))


def rows_of(
    worker: Worker, names: Sequence[str], setting: Setting, rounds: int, steps: int
) -> list[dict]:
    """Return a row for each design; the first is the baseline, timed beside every other.

    Raises:
        WorkFailed: if the baseline cannot run; another's failure is its row.
    """
    baseline, *others = names
    rows, alone = [], []
    with started(worker, baseline, setting) as base:
        told = base.told()
        for name in others:
            try:
                with started(worker, name, setting) as remote:
                    own = remote.told()
                    error = disagreement(told, own, AGREEMENT[setting.precision])
                    ours, theirs = in_turns(remote, base, rounds, steps)
                    row = costs(own, ours, remote.peak(), setting) | {"disagreement": error}
                row["speed_up"] = median([b / a for a, b in zip(ours, theirs, strict=True)])
                alone += theirs
            except WorkFailed as failure:
                row = {"failed": str(failure)}
            rows.append({"design": name, "batch_size": setting.batch_size} | row)
            print(summary(rows[-1]), file=sys.stderr)
        row = costs(told, alone or base.seconds(rounds), base.peak(), setting)
    return [{"design": baseline, "batch_size": setting.batch_size} | row, *rows]


def disagreement(told: dict, own: dict, most: float) -> float | None:
    """Return how far a design's outcome is from the baseline's, relative to it.

    Raises:
        WorkFailed: if it is another one: then the two do not do the same work.
    """
    theirs, ours = (load_file(each["outcome"]) for each in (told, own))
    Path(own["outcome"]).unlink()
    if not ours or not theirs:
        return None
    if theirs.keys() != ours.keys():
        raise WorkFailed("its outcome has other parts than the baseline's")
    missed = sum((ours[n] - theirs[n]).double().square().sum().item() for n in theirs)
    error = (missed / sum(g.double().square().sum().item() for g in theirs.values())) ** 0.5
    if not error < most:
        raise WorkFailed(f"its outcome is off by {error:.1%} of the baseline's")
    return error


def costs(told: dict, seconds: Sequence[float], peak: int, setting: Setting) -> dict:
    """Return what a step costs: its time, speed, memory and operations."""
    time = median(seconds)
    return {
        "seconds": time,
        "images_per_second": setting.batch_size / time["value"],
        "flops": told["flops"],
        "flops_per_second": told["flops"] / time["value"],
        "static_bytes": told["static_bytes"],
        "peak_bytes": peak,
    }


def summary(row: dict) -> str:
    """Return a row in words."""
    what = f"batch {row['batch_size']}, {row['design']}"
    if "failed" in row:
        return f"{what}: failed: {row['failed']}"
    static, peak = row["static_bytes"] / 1e9, row["peak_bytes"] / 1e9
    return (
        f"{what}: {row['images_per_second']:.3g} images/s, {row['speed_up']['value']:.2f} times "
        f"the baseline; {static:.2f} GB whatever the batch, {peak:.2f} GB at most"
    )


def measure(
    asked: argparse.Namespace, worker: Worker, names: Sequence[str],
    prepare: Callable[[Setting], None] = lambda setting: None,
) -> Path:  # fmt: skip
    """Time the designs at every batch size; write the results and their plot."""
    check_writable(asked.out.parent)
    torch.set_num_threads(asked.threads)
    rate = matmul_rate(asked.device, DTYPES[asked.precision])
    rows = []
    with TemporaryDirectory(prefix="fewstep-speed-") as folder:
        save_pipeline(asked.model, Path(folder))
        settings = [setting_of(asked, folder, size) for size in asked.batch_sizes]
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
                rows += rows_of(worker, names, setting, asked.rounds, asked.steps)
            except WorkFailed as failure:  # of the baseline: nothing to compare with at this size
                row = {"design": names[0], "batch_size": setting.batch_size, "failed": str(failure)}
                rows.append(row)
                print(summary(row), file=sys.stderr)
            write_file(asked.out, json.dumps(results, indent=1) + "\n")
    draw(results, plot_of(asked.out))
    return asked.out


def plot_of(out: Path) -> Path:
    """Return where the plot goes: beside its results, or for committed ones among the pages'."""
    is_committed = out.resolve().parent == ROOT / "benchmarks" / "results"
    return (ROOT / "docs" / "images" / out.name if is_committed else out).with_suffix(".png")


def setting_of(asked: argparse.Namespace, folder: str, batch_size: int) -> Setting:
    return Setting(
        model=asked.model, folder=folder, device=asked.device, precision=asked.precision,
        batch_size=batch_size, rank=asked.rank, threads=asked.threads,
        memory_cap=asked.memory_cap,
        resolution=asked.resolution or SIZES[asked.model].resolution,
    )  # fmt: skip


def arguments(
    about: str | None, designs: Sequence[str], batch_sizes: Sequence[int], steps: int
) -> argparse.Namespace:
    """Read the command line, or say what is wrong with it."""
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
    parser.add_argument("--steps", type=int, default=steps, help="steps a turn")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory-cap", type=float, help="GB that a design may use of the GPU")
    parser.add_argument("-o", "--out", type=Path, required=True)
    asked = parser.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda, but torch sees no GPU here; use --device cpu")
    if asked.memory_cap is not None and asked.device != "cuda":
        parser.error("--memory-cap is for a GPU; add --device cuda")
    if asked.memory_cap is not None:
        whole = torch.cuda.get_device_properties(0).total_memory / 1e9
        if not 0 < asked.memory_cap <= whole:
            parser.error(f"--memory-cap is {asked.memory_cap}; this GPU has {whole:.1f} GB")
    if min(*asked.batch_sizes, asked.rounds, asked.steps, asked.rank, 1) < 1:
        parser.error("--batch-sizes, --rounds, --steps and --rank have to be 1 or more")
    if asked.resolution and asked.resolution % 64:
        parser.error(f"--resolution is {asked.resolution}; it has to be a multiple of 64")
    return asked

"""The cost of reading the cache: time per batch and memory, for 1,000 to 100,000 pairs.

    python -m benchmarks.reading -o benchmarks/results/data.json

The latents and texts are random, in the shapes of the bundled teacher; the cache is written and
read by the code that training uses. For comparison there is a training step of the bundled teacher,
the smallest model. Times are processor time, so that other work on the machine does not count. The
plot goes to docs/images.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
import torch
from matplotlib.figure import Figure
from torch import Tensor

from fewstep.colours import BLUE, INK, ORANGE, TEAL
from fewstep.config import load_config
from fewstep.console import finish
from fewstep.data.base import Captioned
from fewstep.data.cache import open_cache
from fewstep.data.encode import Encoded, fill_cache
from fewstep.evaluation.intervals import SMALLEST_N
from fewstep.evaluation.provenance import commit, machine
from fewstep.files import write_file
from fewstep.training.distill import open_batches, steps_of
from fewstep.training.setup import build

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "configs" / "bundled-multi-boundary.toml"
IMAGE = ROOT / "docs" / "images" / "reading.png"
BATCH, BATCHES, STEPS = 32, 100, 3
LATENT, TEXT = (1, 4, 16, 16), (24, 96)


@dataclass(frozen=True)
class RandomPairs(Captioned):
    """Pairs with nothing behind them: each fourth caption is another."""

    count: int

    @property
    def identity(self) -> str:
        return f"invented {self.count}"

    def __len__(self) -> int:
        return self.count

    def name(self, number: int) -> str:
        return f"pair {number}"

    def captions(self, number: int) -> tuple[str, ...]:
        return (f"caption {number // 4}",)


def encode_pairs(numbers: Sequence[int]) -> Iterator[Encoded]:
    for _ in numbers:
        yield torch.randn(LATENT), torch.rand(LATENT)


def encode_prompts(prompts: Sequence[str]) -> dict[str, Tensor]:
    return {"text": torch.randn(len(prompts), *TEXT)}


def reading(count: int) -> dict[str, Any]:
    """Write a cache of `count` pairs, and read its batches in the order of a run."""
    with TemporaryDirectory() as folder:
        in_own_process(lambda: write(Path(folder), count))
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        read = in_own_process(lambda: read_batches(Path(folder)))
        return {"pairs": count, "bytes_on_disk": size} | read


def write(folder: Path, count: int) -> None:
    for _ in fill_cache(folder, RandomPairs(count), encode_pairs, encode_prompts, 0.0):
        pass


def read_batches(folder: Path) -> dict[str, Any]:
    """Return the seconds per batch, and the growth of the process while reading."""
    before = psutil.Process().memory_info().rss
    cache = open_cache(folder, seed=0)
    cache.read(range(BATCH))  # computes the order of the epoch
    opened = psutil.Process().memory_info().rss
    seconds = [
        timed(lambda n=n: cache.read(range(n * BATCH, (n + 1) * BATCH))) for n in range(1, BATCHES)
    ]
    return {
        "batch_seconds": interval(seconds),
        "bytes_opened": opened - before,
        "bytes_read": psutil.Process().memory_info().rss - before,
    }


def training_step() -> dict[str, Any]:
    """Return the seconds of an optimiser step of the bundled recipe."""
    config = load_config(RECIPE, [f"data.num_pairs={2 * BATCH}", "train.preview_every=0"])
    with TemporaryDirectory() as folder:
        config = replace(config, train=replace(config.train, batch_size=BATCH))
        components = build(config, Path(folder) / "run", "cpu")
        steps = steps_of(components, finish(open_batches(components)))
        next(steps)
        return interval([timed(lambda: next(steps)) for _ in range(STEPS)])


def timed(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def interval(seconds: Sequence[float]) -> dict[str, Any]:
    """Return the median and, of enough values, the middle 90 %."""
    low, value, high = np.quantile(seconds, [0.05, 0.5, 0.95]).tolist()
    ends = {"low": low, "high": high} if len(seconds) >= SMALLEST_N else {}
    return {"value": value, **ends, "n": len(seconds)}


def in_own_process(work: Callable[[], Any]) -> Any:
    """Do the work in a new process, whose memory nothing else has used."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    process = context.Process(target=lambda: results.put(work()))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"the measuring process ended with {process.exitcode}")
    return results.get()


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw time and memory over the number of pairs."""
    rows = results["rows"]
    pairs = [row["pairs"] for row in rows]
    figure = Figure(figsize=(9, 3.4), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    times = [[1e3 * row["batch_seconds"][end] for row in rows] for end in ("low", "value", "high")]
    left.fill_between(pairs, times[0], times[2], color=BLUE, alpha=0.2, linewidth=0)
    left.plot(pairs, times[1], "o-", color=BLUE, label=f"reading a batch of {BATCH}")
    left.axhline(1e3 * results["step_seconds"]["value"], color=INK, linestyle="--",
                 label="a training step of the bundled teacher")  # fmt: skip
    left.set(xscale="log", yscale="log", xlabel="pairs in the cache", ylabel="ms of processor time")
    left.legend(frameon=False, fontsize=8, loc="center left")
    for key, label, colour in (("bytes_on_disk", "cache on disk", ORANGE),
                               ("bytes_read", "memory while reading", TEAL)):  # fmt: skip
        right.plot(pairs, [row[key] / 1e6 for row in rows], "o-", color=colour, label=label)
    right.set(xscale="log", yscale="log", xlabel="pairs in the cache", ylabel="MB")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, nargs="+", default=[1000, 10_000, 100_000])
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = {
        "command": f"python -m benchmarks.reading -o benchmarks/results/{args.out.name}",
        "commit": commit(),
        "machine": machine(),
        "batch": BATCH,
        "step_seconds": in_own_process(training_step),
        "rows": [reading(count) for count in args.pairs],
    }
    write_file(args.out, json.dumps(results, indent=2) + "\n")
    draw(results, IMAGE)


if __name__ == "__main__":
    main()

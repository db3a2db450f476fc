"""A long run: memory and time of a step stay flat, and the logs grow by the same bytes a step.

    python -m benchmarks.soak -o benchmarks/results/soak.json

Distils the smallest network for 10,000 steps. Writes the results file and docs/images/soak.png.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.speed_models import save_pipeline
from fewstep.colours import BLUE, SIX
from fewstep.config import AdapterSettings, Config, DataSettings, ModelSettings, TrainSettings
from fewstep.evaluation.intervals import Interval, mean_of_few, student_t
from fewstep.evaluation.provenance import commit, machine
from fewstep.files import write_file
from fewstep.training.distill import TrainingStep, distill

ROOT = Path(__file__).parents[1]
BLOCKS = 100
"""The run is looked at after each hundredth of its steps."""

LOGS = ("metrics.jsonl", "tensorboard", "previews", "checkpoints")
"""What a run writes while it trains."""


def config_for(base: Path, steps: int) -> Config:
    return Config(
        method={"name": "multi-boundary-cd"},
        model=ModelSettings(base=str(base)),
        adapter=AdapterSettings("attention", rank=2),
        data=DataSettings(num_pairs=64),
        train=TrainSettings(
            steps=steps, batch_size=1, preview_every=steps // 4, save_every=max(1, steps // 50)
        ),
    )


def blocks_of(config: Config, run: Path) -> Iterator[dict[str, float]]:
    """Train; yield after each block its last step, processor time a step, memory and bytes."""
    size = config.train.steps // BLOCKS
    clock, seconds = time.process_time(), []
    for event in distill(config, run, "cpu"):
        if isinstance(event, TrainingStep):
            seconds.append(time.process_time() - clock)
            if event.done % size == 0:
                yield {
                    "step": event.done,
                    "milliseconds": 1e3 * float(np.median(seconds)),
                    "resident_mib": resident_mib(),
                    **{f"{name} bytes": bytes_in(run / name) for name in LOGS},
                }
                seconds = []
        clock = time.process_time()


def resident_mib() -> float:
    """Return the resident memory of this process, as the kernel counts it."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * 4096 / 2**20, 2)


def bytes_in(path: Path) -> int:
    """Return the size of a file, or of all files below a folder."""
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())


def slope(steps: Sequence[float], values: Sequence[float]) -> Interval:
    """Return the slope a 1,000 steps of a line through blocks, with Student's t interval.

    >>> slope([0, 1000, 2000, 3000, 4000, 5000], [1, 3, 5, 7, 9, 11])
    Interval(value=2.0, low=2.0, high=2.0, n=6)
    """
    x, y = np.asarray(steps, float) / 1000, np.asarray(values, float)
    x -= x.mean()
    value = float(x @ y / (x @ x))
    residual = y - y.mean() - value * x
    error = float(np.sqrt(residual @ residual / (len(x) - 2) / (x @ x)))
    reach = student_t(len(x) - 2) * error
    return Interval(value, value - reach, value + reach, len(x))


def measure(steps: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        base = save_pipeline("smallest", Path(folder) / "base")
        blocks = [*blocks_of(config_for(base, steps), Path(folder) / "run")]
    columns = {name: [block[name] for block in blocks] for name in blocks[0]}
    warm = BLOCKS // 4  # the libraries' caches fill up in the first steps
    thirds = np.array_split(np.asarray(columns["milliseconds"]), 3)
    logged = np.diff(columns["metrics.jsonl bytes"]) / (steps / BLOCKS)
    return {
        "command": "python -m benchmarks.soak -o benchmarks/results/soak.json",
        "commit": commit(),
        "machine": machine(),
        "work": "the smallest network, multi-boundary-cd, LoRA in attention, rank 2, batch 1",
        "mib_per_1000_steps": asdict(slope(columns["step"][warm:], columns["resident_mib"][warm:])),
        "milliseconds_by_third": [asdict(mean_of_few(third)) for third in thirds],
        "metrics_bytes_per_step": asdict(mean_of_few(logged)),
        **{name: [round(value, 3) for value in values] for name, values in columns.items()},
    }


def draw(result: dict, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure((7, 6), layout="constrained")
    memory, times, logs = figure.subplots(3, 1, sharex=True)
    memory.plot(result["step"], result["resident_mib"], color=BLUE)
    memory.set(ylabel="resident memory, MiB", ylim=(0, 1.1 * max(result["resident_mib"])))
    times.plot(result["step"], result["milliseconds"], color=BLUE)
    times.set(ylabel="processor time\nof a step, ms", ylim=(0, 1.3 * max(result["milliseconds"])))
    for name, colour in zip(LOGS, SIX, strict=False):
        size = np.asarray(result[f"{name} bytes"]) / 1e6
        logs.plot(result["step"], size, color=colour, label=name)
    logs.set(xlabel="optimiser step", ylabel="size, MB")
    logs.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=10_000, help=f"a multiple of {BLOCKS}")
    args = parser.parse_args()
    result = measure(args.steps)
    write_file(args.out, json.dumps(result, indent=1) + "\n")
    draw(result, ROOT / "docs/images" / f"{args.out.stem}.png")
    print(f"{result['mib_per_1000_steps']} MiB per 1,000 steps")


if __name__ == "__main__":
    main()

"""The memory of a training process over 2,000 steps: it must not grow.

    python -m benchmarks.memory [STEPS]

Trains the bundled model at a small batch and writes benchmarks/results/memory.json and
docs/images/memory.png.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from fewstep.config import AdapterSettings, Config, DataSettings, TrainSettings
from fewstep.evaluation.provenance import commit, machine
from fewstep.files import write_file
from fewstep.training.distill import TrainingStep, distill

ROOT = Path(__file__).parents[1]
EVERY = 10


def resident_mib() -> float:
    """Return the resident memory of this process, as the kernel counts it."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * 4096 / 2**20, 2)


def growth(steps: list[int], mib: list[float]) -> float:
    """Return the slope in MiB per 1,000 steps over the last three quarters."""
    first = len(steps) // 4
    return float(np.polyfit(steps[first:], mib[first:], 1)[0] * 1000)


def measure(num_steps: int) -> dict[str, object]:
    config = Config(
        method={"name": "multi-boundary-cd"},
        adapter=AdapterSettings(rank=4),
        data=DataSettings(num_pairs=64),
        train=TrainSettings(steps=num_steps, batch_size=1, preview_every=0, save_every=200),
    )
    mib: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for event in distill(config, Path(folder) / "run"):
            if isinstance(event, TrainingStep) and event.done % EVERY == 0:
                mib[event.done] = resident_mib()
    return {
        "command": "python -m benchmarks.memory",
        "commit": commit(),
        "machine": machine(),
        "steps": [*mib],
        "resident_mib": [*mib.values()],
        "mib_per_1000_steps": round(growth([*mib], [*mib.values()]), 3),
    }


def draw(result: dict, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure((7, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(result["steps"], result["resident_mib"])
    axes.set(xlabel="optimiser step", ylabel="resident memory, MiB")
    axes.set_ylim(0, 1.1 * max(result["resident_mib"]))
    axes.set_title(f"{result['mib_per_1000_steps']:+.2f} MiB per 1,000 steps")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    result = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
    write_file(ROOT / "benchmarks/results/memory.json", json.dumps(result, indent=1) + "\n")
    draw(result, ROOT / "docs/images/memory.png")
    print(f"{result['mib_per_1000_steps']:+.3f} MiB per 1,000 steps")

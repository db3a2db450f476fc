"""The public LCM-LoRA script as it is, beside `fewstep distill`: the cost of a step, in turns.

    python -m benchmarks.speed_script SCRIPT --python VENV/bin/python \\
        -o benchmarks/results/speed_script.json

Whole processes on one thread: the same teacher, scenes, batch and rank. Each program runs for a few
steps and for more, and what the longer run takes in addition is the cost of its steps, so that
start-up, the preparation of the data and the last checkpoint are left out. Processor seconds are
those of all its processes; the script's own include encoding images and prompts, which it does in
every step. SCRIPT and VENV are those of `benchmarks.public_script`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.public_script import Script, shown_command
from benchmarks.speed_turns import median
from benchmarks.startup import children_seconds
from fewstep.evaluation.provenance import commit, machine
from fewstep.files import write_file
from fewstep.quickstart import CONFIGS

SCRIPT = "public script"
PASSES: Mapping[str, str] = {
    SCRIPT: "teacher and target bf16 (autocast), student fp32",
    "fp32": "all fp32",
    "mixed": "teacher and target bf16 (autocast), student fp32",
    "bf16": "all bf16",
}
"""What is timed: the script, and fewstep by `model.precision`, with the precision of each pass."""
FEW, MORE = 4, 24


def words_of(name: str, script: Script, folder: Path, steps: int) -> Sequence[str]:
    """Return the command line of a training of so many steps."""
    if name == SCRIPT:
        return replace(script, num_steps=steps).words
    settings = {
        "model.precision": name,
        "train.steps": steps,
        "train.batch_size": script.batch_size,
        "train.preview_every": 0,
        "adapter.rank": script.rank,
        "data.num_pairs": script.num_pairs,
    }
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    config = str(CONFIGS / "cd.toml")
    run = str(folder / "run")
    return [sys.executable, "-m", "fewstep", "distill", config, "--run", run, *options]


def spent(words: Sequence[str]) -> tuple[float, float]:
    """Return the processor seconds and the seconds that a command takes on one thread."""
    before, clock = children_seconds(), time.perf_counter()
    subprocess.run(words, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return children_seconds() - before, time.perf_counter() - clock


def step_cost(name: str, script: Script, folder: Path) -> tuple[float, float]:
    """Return the processor seconds and the seconds of one step."""
    costs = []
    for steps in (FEW, MORE):
        for out in (script.out, folder / "run"):
            shutil.rmtree(out, ignore_errors=True)
        costs.append(spent(words_of(name, script, folder, steps)))
    (few_processor, few), (more_processor, more) = costs
    return (more_processor - few_processor) / (MORE - FEW), (more - few) / (MORE - FEW)


def measure(script: Script, folder: Path, rounds: int) -> list[dict[str, object]]:
    """Time every program once a round, in alternating order; the first round does not count."""
    script.check()
    script.prepare()
    processor, clock = defaultdict(list), defaultdict(list)
    for number in range(-1, rounds):
        for name in list(PASSES)[:: 1 if number % 2 == 0 else -1]:
            cost = step_cost(name, script, folder)
            print(f"{number} {name}: {cost[0]:.3f} processor s, {cost[1]:.3f} s", flush=True)
            if number >= 0:
                processor[name].append(cost[0])
                clock[name].append(cost[1])
    return [
        {
            "program": name,
            "passes": PASSES[name],
            "processor_seconds": median(processor[name]),
            "seconds": median(clock[name]),
            "speed_up": median(ratios(processor[SCRIPT], processor[name])),
        }
        for name in PASSES
    ]


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> list[float]:
    """Return how many times as fast as the script each round was."""
    return [a / b for a, b in zip(theirs, ours, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("script", type=Path)
    parser.add_argument("--python", required=True, help="of the script's own environment")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rank", type=int, default=32)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = Script(args.script, args.python, folder, num_pairs=1024, num_steps=MORE,
                        batch_size=args.batch_size, learning_rate=1e-4, guidance_scale=2.0,
                        seed=0, rank=args.rank)  # fmt: skip
        rows = measure(script, folder, args.rounds)
    header = {
        "command": shown_command("speed_script", args),
        "commit": commit(),
        "machine": machine(),
        "load": os.getloadavg()[0],
    }
    write_file(args.out, json.dumps(header | {"n": args.rounds, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

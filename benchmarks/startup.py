"""What commands cost before they work: processor seconds of this checkout and another, in turns.

    python -m benchmarks.startup --beside ../before -o benchmarks/results/startup.json

Whole processes, and user and system time: another load on the machine stretches it far less than
the clock's, but does stretch it, so `import torch` is timed in the same turns. A command's first
line on stderr is timed by the processor seconds that came before it.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from benchmarks.speed_turns import median
from fewstep.evaluation.provenance import commit, machine
from fewstep.files import write_file

FEWSTEP = ("-m", "fewstep")
TORCH = "import torch"
COMMANDS: Mapping[str, Sequence[str]] = {
    TORCH: ("-c", "import torch"),
    "--help": (*FEWSTEP, "--help"),
    "an unknown method": (*FEWSTEP, "distill", "bundled-cd", "--set", "method.name=lcm"),
    "a setting out of range": (*FEWSTEP, "distill", "bundled-cd", "--set", "train.batch_size=0"),
    "a config that is missing": (*FEWSTEP, "distill", "missing.toml"),
    "sample, a word that is not known": (*FEWSTEP, "sample", "bundled", "a lighthouse"),
    "data check, 8 images": (*FEWSTEP, "data", "check", "images"),
    "sample bundled, 4 steps": (*FEWSTEP, "sample", "bundled", "a red heart", "--steps", "4"),
    "plan bundled-cd": (*FEWSTEP, "plan", "bundled-cd"),
}
"""By title: what follows the interpreter, in a folder that holds `images`."""


def run(arguments: Sequence[str], checkout: Path, folder: Path) -> tuple[float, float]:
    """Return the processor seconds of a command, and those before its first line on stderr.

    The latter is NaN where there is none.
    """
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    before = children_seconds()
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        says, first = process.stderr.read(1), float("nan")
        if says:
            times = psutil.Process(process.pid).cpu_times()
            first = times.user + times.system
        process.stderr.read()
    return children_seconds() - before, first


def children_seconds() -> float:
    """Return the user and system seconds of all processes that were started here and ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def write_images(folder: Path, count: int = 8) -> None:
    """Write images of noise with captions."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        pixels = random.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a red heart\n")


def measure(checkouts: Mapping[str, Path], rounds: int) -> list[dict[str, object]]:
    """Run every command of every checkout once a round, the first checkout by turns."""
    seconds, firsts = defaultdict(list), defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images")
        for number in range(-1, rounds):  # the first round reads the files, and does not count
            for title, arguments in COMMANDS.items():
                for which in list(checkouts)[:: 1 if number % 2 == 0 else -1]:
                    took, first = run(arguments, checkouts[which], folder)
                    print(f"{number} {which}: {title}: {took:.2f} s, {first:.2f} s", flush=True)
                    if number >= 0:
                        seconds[which, title].append(took)
                        firsts[which, title].append(first)
    torch = {which: float(np.median(seconds[which, TORCH])) for which in checkouts}
    return [
        {
            "command": title,
            "checkout": which,
            "processor_seconds": median(took),
            "before_the_first_line": None
            if np.isnan(firsts[which, title]).any()
            else median(firsts[which, title]),
            "of_import_torch": float(np.median(took)) / torch[which],
        }
        for (which, title), took in seconds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--beside", type=Path, required=True, help="another checkout of fewstep")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    here = Path(__file__).parents[1]
    rows = measure({"this": here, "beside": args.beside.resolve()}, args.rounds)
    command = f"python -m benchmarks.startup --beside PATH --rounds {args.rounds} -o {args.out}"
    header = {
        "command": command,
        "commit": commit(),
        "beside": commit(args.beside),
        "machine": machine(),
        "load": os.getloadavg()[0],
    }
    write_file(args.out, json.dumps(header | {"n": args.rounds, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""How good the bundled students are: every method, trained with several seeds, and the teacher.

    python benchmarks/students.py -o benchmarks/results/bundled.json

Each training is `fewstep distill` with a bundled config, on its own core, followed by
`fewstep evaluate` on all of them. After an interruption it continues: runs and images are kept in
runs/students.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from fewstep.evaluation.results import load, save
from fewstep.quickstart import CONFIGS, NAMES


def run(*command: str) -> None:
    """Run a command on one thread.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)


def work_on(command: str, method: str, seed: int, folder: Path, overrides: list[str]) -> None:
    """Prepare the data of a student, or distil it, or continue."""
    config = str(CONFIGS / f"{method}.toml")
    settings = [f"train.seed={seed}", "train.preview_every=0", *overrides]
    options = [part for setting in settings for part in ("--set", setting)]
    out = str(folder / f"{method}-{seed}")
    run(sys.executable, "-m", "fewstep", command, config, "--run", out, *options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--num-prompts", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], help="a setting for all trainings")
    parser.add_argument("--runs", type=Path, default=Path("runs/students"))
    args = parser.parse_args()

    trainings = args.runs / "trainings"
    work_on("prepare", args.methods[0], args.seeds[0], trainings, args.set)  # all use its cache
    with ThreadPoolExecutor(args.workers) as pool:
        jobs = [pool.submit(work_on, "distill", method, seed, trainings, args.set)
                for seed in args.seeds for method in args.methods]  # fmt: skip
        for job in jobs:
            job.result()
    processes = f"--nproc_per_node={args.workers}"
    run(sys.executable, "-m", "torch.distributed.run", processes, "-m", "fewstep", "evaluate",
        str(trainings), "--num-prompts", str(args.num_prompts), "-o", str(args.runs))  # fmt: skip
    results = load(args.runs / "results.json")
    save(replace(results, command=" ".join(["python", *sys.argv])), args.out)


if __name__ == "__main__":
    main()

"""How good the bundled students are: every method, trained with several seeds, and the teacher.

    python benchmarks/students.py -o benchmarks/results/bundled.json
    python benchmarks/students.py -o benchmarks/results/matching.json --brief \\
        --methods multi-boundary trajectory-matching --segments 4 2 1

Each training is `fewstep distill` with a bundled config, on its own core, followed by
`fewstep evaluate` on all of them. Trajectory matching starts from the multi-boundary student of the
same seed and number of segments, which is trained first; with `--label` other settings of it
(`--set-matched`) share the start students. `--vary model.quantize=int8` trains each student once
more with this setting; of `quantize` and mixed precision the evaluation compares the two by prompt
and noise. After an interruption it continues: runs and images are kept in runs/students.

A student's core-seconds count from zero: reading and encoding the data, its start student, the
fake score's warm-up; an interrupted training counts with all that it took.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from fewstep.evaluation.intervals import mean_of_few
from fewstep.evaluation.results import SEVERAL, Results, Row, load, save
from fewstep.files import write_file
from fewstep.quickstart import CONFIGS, NAMES

START, MATCHING = "multi-boundary", "trajectory-matching"
"""The method of the student that trajectory matching starts from, and itself: configs' names."""
METHODS = (*NAMES, MATCHING)
CORE_SECONDS = "training_core_seconds"


def run(*command: str) -> float:
    """Run a command on one thread and return the core-seconds that it took.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return used.ru_utime + used.ru_stime


def count(file: Path, *command: str) -> None:
    """Run a command, and add what it took to the core-seconds in a file."""
    write_file(file, json.dumps(counted(file) + round(run(*command), 2)))


def counted(file: Path) -> float:
    """Return the core-seconds in a file; a missing one holds none."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else 0.0


@dataclass(frozen=True)
class Training:
    """One training of a bundled config in its own folder, by its seed and number of segments."""

    folder: Path
    method: str
    seed: int
    num_segments: int = 4
    overrides: tuple[str, ...] = ()
    """Settings that its start student has too."""
    own_overrides: tuple[str, ...] = ()
    label: str = ""
    """Stands in the folder's name, for other settings of one method."""
    varied: str = ""
    """The one setting, KEY=VALUE, in which it differs from another training of its seed."""

    @property
    def run(self) -> Path:
        segments = f"-{self.num_segments}-segments" if self.num_segments != 4 else ""
        label = f"-{self.label}" if self.label else ""
        label += f"-{self.varied.partition('=')[2]}" if self.varied else ""
        return self.folder / f"{self.method}{segments}{label}-{self.seed}"

    @property
    def start(self) -> "Training | None":
        """The training of the student that it starts from, if it starts from one."""
        if self.method != MATCHING:
            return None
        return replace(self, method=START, own_overrides=(), label="")

    def words(self, command: str) -> list[str]:
        """Return the command line that prepares its data, or that trains it."""
        settings = [f"train.seed={self.seed}", "train.preview_every=0"]
        if self.num_segments != 4:
            settings.append(f"method.num_segments={self.num_segments}")
        if self.start:
            settings.append(f"train.init={self.start.run}")
        settings += [*self.overrides, *self.own_overrides, *filter(None, [self.varied])]
        options = [part for one in settings for part in ("--set", one)]
        config = str(CONFIGS / f"{self.method}.toml")
        return [sys.executable, "-m", "fewstep", command, config, "--run", str(self.run), *options]

    def distill(self) -> None:
        """Train it, or continue; what only looks whether all is there does not count."""
        if (self.run / "artefact").is_dir():
            run(*self.words("distill"))
        else:
            count(self.seconds_file, *self.words("distill"))

    @property
    def core_seconds(self) -> float:
        """What training it took, that of its start student included."""
        return counted(self.seconds_file) + (self.start.core_seconds if self.start else 0)

    @property
    def seconds_file(self) -> Path:
        return self.run.with_name(f"{self.run.name}.core-seconds.json")


def chains(
    folder: Path,
    methods: Sequence[str],
    seeds: Sequence[int],
    segments: Sequence[int] = (4,),
    overrides: Sequence[str] = (),
    own_overrides: tuple[str, ...] = (),
    label: str = "",
    varied: Sequence[str] = (),
) -> list[list[Training]]:
    """Return what is trained one after another: a start student, and what starts from it.

    `own_overrides` and `label` are trajectory matching's; each of `varied` is trained besides.
    """
    found = []
    for seed, method, setting in product(seeds, methods, ["", *varied]):
        for num in segments if method in (START, MATCHING) else [4]:
            training = Training(folder, method, seed, num, tuple(overrides), varied=setting)
            if method == MATCHING:
                training = replace(training, own_overrides=own_overrides, label=label)
            found.append([training.start, training] if training.start else [training])
    starts = [chain[0] for chain in found if len(chain) > 1]
    return [chain for chain in found if len(chain) > 1 or chain[0] not in starts]


def train(chain: Sequence[Training]) -> None:
    """Train one after another."""
    for training in chain:
        training.distill()


def with_core_seconds(results: Results, trainings: Sequence[Training], shared: float) -> Results:
    """Add to each student's row what its training took, `shared` included, and to pooled ones."""
    counted_ones = [training for training in trainings if training.seconds_file.is_file()]
    took = {training.run.name: training.core_seconds + shared for training in counted_ones}

    def extended(row: Row) -> Row:
        names = row.source.split(SEVERAL)
        if not all(name in took for name in names):
            return row
        return replace(
            row,
            metrics={**row.metrics, CORE_SECONDS: mean_of_few([took[name] for name in names])},
        )

    return replace(results, rows=tuple(map(extended, results.rows)))


def setting(text: str) -> str:
    """Return a setting KEY=VALUE whose value can stand in a folder's name."""
    if not re.fullmatch(r"[\w.]+=[\w.+-]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE with a plain value")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--segments", type=int, nargs="+", default=[4], help="jumps of a student")
    parser.add_argument("--num-prompts", type=int, default=2000)
    parser.add_argument("--brief", action="store_true", help="the teacher in 50 steps alone")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], help="a setting for all trainings")
    parser.add_argument("--set-matched", action="append", default=[],
                        help="a setting for trajectory matching alone")  # fmt: skip
    parser.add_argument("--label", default="", help="a name for these settings of it")
    parser.add_argument("--vary", action="append", default=[], metavar="KEY=VALUE", type=setting,
                        help="one more training of each student, with this setting")  # fmt: skip
    parser.add_argument("--runs", type=Path, default=Path("runs/students"))
    args = parser.parse_args()

    folder = args.runs / "trainings"
    todo = chains(folder, args.methods, args.seeds, args.segments, args.set,
                  tuple(args.set_matched), args.label, args.vary)  # fmt: skip
    trainings = [training for chain in todo for training in chain]
    if len({training.run for training in trainings}) < len(trainings):
        parser.error("two of --seeds, --segments and --vary give the same folder")
    prepared = folder / "prepare.core-seconds.json"  # of what all students read
    data = next(training for training in trainings if training.start is None)
    count(prepared, *data.words("prepare"))
    with ThreadPoolExecutor(args.workers) as pool:
        for job in [pool.submit(train, chain) for chain in todo]:
            job.result()
    processes = f"--nproc_per_node={args.workers}"
    sources = [str(training.run) for training in trainings]
    run(sys.executable, "-m", "torch.distributed.run", processes, "-m", "fewstep", "evaluate",
        *sources, *["--brief"] * args.brief, "--num-prompts", str(args.num_prompts),
        "-o", str(args.runs))  # fmt: skip
    results = with_core_seconds(load(args.runs / "results.json"), trainings, counted(prepared))
    save(replace(results, command=" ".join(["python", *sys.argv])), args.out)


if __name__ == "__main__":
    main()

"""Core-seconds from zero until our student passes what the public script reaches at its end.

    python -m benchmarks.public_script … -o benchmarks/results/public_script.json
    python -m benchmarks.time_to_quality benchmarks/results/public_script.json \\
        -o benchmarks/results/time_to_quality.json

Run both on idle cores, one after the other. Ours are the multi-boundary student and the student of
trajectory matching that starts from it; every checkpoint of both is sampled in 4 calls, on the
script's prompts. Counted from zero: encoding, start-up and the fake score's warm-up come before the
first step. The teacher's training is left out on both sides.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path

from benchmarks.public_script import TITLE
from benchmarks.students import CORE_SECONDS, MATCHING, Training, count, counted
from fewstep.console import finish
from fewstep.errors import UserError
from fewstep.evaluation.intervals import Interval
from fewstep.evaluation.metrics import METRICS
from fewstep.evaluation.metrics.prompt_accuracy import verdicts
from fewstep.evaluation.models import EvaluationSet
from fewstep.evaluation.prompts import held_out_prompts
from fewstep.evaluation.provenance import commit, machine
from fewstep.evaluation.results import Results, load
from fewstep.evaluation.samples import SampleCache, generate_images
from fewstep.evaluation.students import Student
from fewstep.files import write_file
from fewstep.student.unfinished import read_checkpoint, saved_checkpoints


@dataclass(frozen=True)
class Moment:
    """A checkpoint: the core-seconds from zero until it was there, and how good it is."""

    run: str
    step: int
    seconds: float
    accuracy: Interval


def goal_of(results: Results) -> tuple[Interval, float]:
    """Return the script's accuracy at its end, and its core-seconds.

    Raises:
        UserError: if these are no results of `benchmarks.public_script`.
    """
    for row in results.rows:
        if row.method == TITLE:
            return row.metrics["prompt_accuracy"], row.metrics[CORE_SECONDS].value
    raise UserError("these results have no row of the public script; run benchmarks.public_script")


def seconds_by_step(run: Path, core_seconds: float, batch: int) -> list[float]:
    """Return the core-seconds until each step was done, from the start of the training.

    What is not in its steps (start-up, encoding, the fake's warm-up) comes before the first.
    """
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [batch / json.loads(line)["images_per_second"] for line in lines]
    return [max(0.0, core_seconds - sum(steps)) + done for done in accumulate(steps)]


def moments(training: Training, before: float, cache: SampleCache) -> Iterator[Moment]:
    """Yield the checkpoints of a training in turn, measured; `before` are earlier core-seconds."""
    run = training.run
    for path in saved_checkpoints(run / "checkpoints"):
        step = int(path.name)
        contract, weights = read_checkpoint(run, step)
        batch = contract.train["global_batch"]
        seconds = seconds_by_step(run, counted(training.seconds_file), batch)[step - 1]
        evaluation = EvaluationSet([Student(f"{run.name}, step {step}", contract, weights)])
        model = evaluation.student(evaluation.students[0])
        finish(generate_images([model], cache, cache.batches))
        right = verdicts(cache.all_images(model), cache.prompts)
        accuracy = METRICS["prompt_accuracy"].measure(right)
        yield Moment(run.name, step, round(before + seconds, 1), accuracy)


def first_past(goal: float, found: Sequence[Moment]) -> Moment | None:
    """Return the first moment whose accuracy is the goal's or better."""
    return next((moment for moment in found if moment.accuracy.value >= goal), None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("script_results", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=25, help="steps between checkpoints")
    parser.add_argument("--set", action="append", default=[], help="a setting for both trainings")
    parser.add_argument("--runs", type=Path, default=Path("runs/time-to-quality"))
    args = parser.parse_args()
    goal, theirs = goal_of(load(args.script_results))

    kept = (f"train.save_every={args.save_every}", "train.keep_last=100000", *args.set)
    matched = Training(args.runs / "trainings", MATCHING, args.seed, overrides=kept)
    start = matched.start
    assert start is not None
    prepared = matched.folder / "prepare.core-seconds.json"
    if not prepared.is_file():
        count(prepared, *start.words("prepare"))
    start.distill()
    matched.distill()

    cache = SampleCache(args.runs / "images", held_out_prompts(goal.n), 64)
    found = [*moments(start, counted(prepared), cache)]
    found += moments(matched, counted(prepared) + start.core_seconds, cache)
    passed = first_past(goal.value, found)
    results = {
        "command": f"python -m benchmarks.time_to_quality {shlex.join(sys.argv[1:])}",
        "commit": commit(),
        "machine": machine(),
        "script": {"accuracy": asdict(goal), "core_seconds": theirs},
        "passed": asdict(passed) if passed else None,
        "share_of_the_scripts_seconds": round(passed.seconds / theirs, 4) if passed else None,
        "moments": [asdict(moment) for moment in found],
    }
    write_file(args.out, json.dumps(results, indent=1) + "\n")
    if passed is None:
        print(f"no checkpoint reaches the script's {goal.value:.1%}")
        return
    share = f"{passed.seconds:,.0f} of the script's {theirs:,.0f} core-seconds"
    print(f"{passed.run}, step {passed.step}: {passed.accuracy.value:.1%} after {share}")


if __name__ == "__main__":
    main()

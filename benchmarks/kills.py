"""Runs killed at random moments, and continued by the same command, end as if never killed.

    python -m benchmarks.kills -o benchmarks/results/kills.json

Each run is distilled and exported; it is killed twice (SIGKILL), others are stopped (SIGINT,
SIGTERM). Stage and moment are drawn from a seed. Every attempt is a new process, forked from one
that has imported the libraries and done nothing else, because importing takes most of the time.
"""

import argparse
import json
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from benchmarks import kills_program
from benchmarks.kills_program import BETWEEN, STAGES
from benchmarks.speed_models import save_pipeline
from fewstep.config import (
    AdapterSettings,
    Config,
    DataSettings,
    ModelSettings,
    TrainSettings,
    to_toml,
)
from fewstep.evaluation.intervals import Interval, proportion
from fewstep.evaluation.provenance import commit, machine
from fewstep.files import write_file

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["benchmarks.kills_program", "pydantic", "tensorboardX"])

LANES = 4
"""Runs that are killed at a time, each in processes of its own."""

TIMES = ("images_per_second", "memory")
"""What a line of metrics.jsonl says of the machine, and not of the run."""

UNEQUAL = ("run/tensorboard/", "run/.lock", "output.txt")
"""Files that hold times, or nothing."""


@dataclass(frozen=True)
class Blow:
    """A signal that is sent `delay` seconds after a stage began for the `visit`-th time."""

    stage: str
    visit: int
    delay: float
    signum: signal.Signals = signal.SIGKILL


@dataclass(frozen=True)
class Attempt:
    """How a process ended, the stages that it told of with their times, and the signal's time."""

    exit_code: int | None
    told: Sequence[tuple[float, str]]
    sent: float | None
    ended: float

    @property
    def hit(self) -> str:
        """What the process was doing when it told for the last time before the signal."""
        return [BETWEEN, *(stage for at, stage in self.told if at <= (self.sent or at))][-1]


def config_for(base: Path) -> Config:
    return Config(
        method={"name": "multi-boundary-cd"},
        model=ModelSettings(base=str(base)),
        adapter=AdapterSettings("attention", rank=2),
        data=DataSettings(num_pairs=8),
        train=TrainSettings(
            steps=6, batch_size=2, warmup=1, save_every=2, preview_every=3,
            preview_prompts=("a red heart",), learning_rate=1e-2,
        ),
    )  # fmt: skip


def commands(config: Path, folder: Path) -> dict[str, list[str]]:
    """Return the command lines of a run, by the stage that is theirs alone."""
    run, out = str(folder / "run"), str(folder / "export")
    return {
        "artefact": ["distill", str(config), "--run", run],
        "export": ["export", run, "--out", out],
    }


def attempt(arguments: Sequence[str], folder: Path, blow: Blow | None = None) -> Attempt:
    """Run a command in a new process, and send it a signal at its moment."""
    reader, writer = FORKS.Pipe(duplex=False)
    work = (arguments, writer, folder / "output.txt")
    process = FORKS.Process(target=kills_program.run, args=work)
    process.start()
    writer.close()
    told: list[tuple[float, str]] = []
    sent, visits = None, 0
    with suppress(EOFError):  # the process ended
        while True:
            told.append(reader.recv())
            visits += blow is not None and told[-1][1] == blow.stage
            if blow and sent is None and visits == blow.visit:
                time.sleep(blow.delay)
                sent = time.monotonic()
                with suppress(ProcessLookupError):
                    os.kill(process.pid or 0, blow.signum)
    process.join()
    return Attempt(process.exitcode, told, sent, time.monotonic())


def complete(config: Path, folder: Path, blows: Sequence[Blow]) -> list[tuple[Blow, Attempt]]:
    """Distil and export, each by one command repeated until it succeeds; return what was hit.

    Raises:
        RuntimeError: if a command fails without a signal.
    """
    folder.mkdir()
    hits = []
    for stage, arguments in commands(config, folder).items():
        ahead = [blow for blow in blows if (blow.stage == "export") == (stage == "export")]
        done = False
        while ahead or not done:
            blow = ahead.pop(0) if ahead else None
            tried = attempt(arguments, folder, blow)
            done = tried.exit_code == 0
            if blow:
                hits.append((blow, tried))
            elif not done:
                raise RuntimeError((folder / "output.txt").read_text())
    return hits


def differences(folder: Path, whole: Path) -> list[str]:
    """Return the files that are not the same, or there only once, except for times."""
    ours, theirs = contents(folder), contents(whole)
    return sorted(name for name in ours.keys() | theirs if ours.get(name) != theirs.get(name))


def contents(folder: Path) -> dict[str, Any]:
    """Return what every file of a run holds, by its path; of checkpoints, the last one's.

    A run that is stopped saves a checkpoint more, and so keeps another before the last.
    """
    found: dict[str, Any] = {}
    earlier = sorted(folder.glob("run/checkpoints/[0-9]*"))[:-1]
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.parent not in earlier and not name.startswith(UNEQUAL):
            found[name] = path.read_bytes()
    lines = map(json.loads, found["run/metrics.jsonl"].splitlines())
    found["run/metrics.jsonl"] = [{k: v for k, v in e.items() if k not in TIMES} for e in lines]
    return found


def durations(attempts: Sequence[Attempt]) -> dict[str, float]:
    """Return the median seconds that each stage takes."""
    seconds: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for tried in attempts:
        for (start, stage), (end, _) in zip(tried.told, tried.told[1:], strict=False):
            if stage in seconds:
                seconds[stage].append(end - start)
    return {stage: median(values) for stage, values in seconds.items()}


def drawn(rng: Random, stages: Sequence[str], seconds: Mapping[str, float]) -> list[Blow]:
    """Draw the moments of the kills of one run at these stages, in the order of a run."""
    ordered = sorted(stages, key=STAGES.index)
    return [
        Blow(stage, rng.randint(1, 2) if stage in ("step", "checkpoint", "preview") else 1,
             rng.uniform(0, seconds[stage]))
        for stage in ordered
    ]  # fmt: skip


def record(blow: Blow, tried: Attempt) -> dict[str, Any]:
    """Return what a results file says of a signal."""
    entry = {
        "signal": blow.signum.name,
        "aimed_at": blow.stage,
        "visit": blow.visit,
        "delay_milliseconds": round(1e3 * blow.delay, 2),
        "hit": tried.hit if tried.exit_code != 0 else "after the end",
        "exit_code": tried.exit_code,
    }
    if blow.signum != signal.SIGKILL and tried.sent is not None:
        later = [stage for at, stage in tried.told if at > tried.sent]
        entry |= {"seconds_to_end": round(tried.ended - tried.sent, 3),
                  "steps_begun_after": later.count("step")}  # fmt: skip
    return entry


def measure(runs: int, stops: int, seed: int) -> Iterator[dict[str, Any]]:
    """Kill `runs` runs and stop `stops`; yield after each how all so far compare with one alone."""
    rng = Random(seed)
    deck = [STAGES[i % len(STAGES)] for i in range(2 * runs)]
    rng.shuffle(deck)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = save_pipeline("smallest", folder / "base")
        config = folder / "config.toml"
        config.write_text(to_toml(config_for(base)))
        whole = folder / "whole"
        whole.mkdir()
        left_alone = [attempt(c, whole) for c in commands(config, whole).values()]
        seconds = durations(left_alone)
        plans = [drawn(rng, deck[2 * i : 2 * i + 2], seconds) for i in range(runs)]
        for i in range(stops):
            stage = ("step", "checkpoint", "preview")[i % 3]
            signum = (signal.SIGINT, signal.SIGTERM)[i % 2]
            plans.append([Blow(stage, rng.randint(1, 2), rng.uniform(0, seconds[stage]), signum)])

        def row(number: int) -> dict[str, Any]:
            hits = [record(*hit) for hit in complete(config, folder / str(number), plans[number])]
            differing = differences(folder / str(number), whole)
            print(number, [one["hit"] for one in hits], differing or "the same")
            return {"signals": hits, "differing": differing}

        with ThreadPoolExecutor(LANES) as lanes:
            rows = []
            for done in lanes.map(row, range(len(plans))):
                rows.append(done)
                yield summary(rows, runs) | {"seed": seed, "rows": rows}


def share_of_the_same(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the share of the rows without a difference; of one there is no interval."""
    same = [not row["differing"] for row in rows]
    share = proportion(same) if len(same) > 1 else Interval(float(same[0]), None, None, 1)
    return asdict(share)


def summary(rows: Sequence[Mapping[str, Any]], runs: int) -> dict[str, Any]:
    """Return the shares that a page quotes."""
    killed, stopped = rows[:runs], rows[runs:]
    hits = Counter(one["hit"] for row in killed for one in row["signals"])
    result: dict[str, Any] = {
        "same_after_kills": share_of_the_same(killed),
        "kills_by_stage": dict(sorted(hits.items())),
    }
    if stopped:
        signals = [one for row in stopped for one in row["signals"]]
        result |= {
            "same_after_stops": share_of_the_same(stopped),
            "longest_seconds_to_end": max(one.get("seconds_to_end", 0) for one in signals),
            "most_steps_begun_after": max(one.get("steps_begun_after", 0) for one in signals),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=50, help="that are killed, each twice")
    parser.add_argument("--stops", type=int, default=12, help="runs that are stopped")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    about = {"command": "python -m benchmarks.kills -o benchmarks/results/kills.json",
             "commit": commit(), "machine": machine()}  # fmt: skip
    for result in measure(args.runs, args.stops, args.seed):
        write_file(args.out, json.dumps(about | result, indent=1) + "\n")


if __name__ == "__main__":
    main()

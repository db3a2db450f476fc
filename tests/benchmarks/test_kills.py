"""Killed or stopped at random moments, a run continues to what it would have been."""

import json
import signal
from pathlib import Path

import pytest

from benchmarks.kills import Attempt, differences, durations, measure
from benchmarks.kills_program import STAGES, told, told_steps

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.mark.slow
def test_runs_killed_and_stopped_at_random_moments_end_as_if_they_were_not():
    *_, result = measure(runs=3, stops=2, seed=1)
    assert [row["differing"] for row in result["rows"]] == [[]] * 5
    *killed, interrupted, terminated = result["rows"]
    assert all(len(row["signals"]) == 2 for row in killed)
    for row in killed:
        assert -signal.SIGKILL in {one["exit_code"] for one in row["signals"]}
    codes = [row["signals"][0]["exit_code"] for row in (interrupted, terminated)]
    assert codes == [128 + signal.SIGINT, 128 + signal.SIGTERM]
    assert result["most_steps_begun_after"] <= 1


def test_a_stage_is_told_when_it_begins_and_ends_also_by_an_error():
    heard = []

    def failing():
        raise ValueError

    assert told(lambda: 3, "export", heard.append)() == 3
    with pytest.raises(ValueError):  # noqa: PT011
        told(failing, "preview", heard.append)()
    assert heard == ["export", "between", "preview", "between"]


def test_the_steps_of_a_stage_are_told_one_by_one():
    heard = []

    def counting():
        yield from (1, 2)
        return 3

    def all_of():
        return (yield from told_steps(counting, "step", heard.append)())

    steps, seen = all_of(), []
    for number in steps:
        seen.append((number, [*heard]))
        heard.clear()
    assert seen == [(1, ["step", "between"]), (2, ["step", "between"])]


def test_the_stage_that_was_hit_is_the_last_before_the_signal():
    heard = [(1.0, "step"), (2.0, "between"), (3.0, "checkpoint"), (5.0, "between")]
    assert Attempt(-9, heard, 4.0, 6.0).hit == "checkpoint"
    assert Attempt(-9, heard, 2.5, 6.0).hit == "between"
    assert durations([Attempt(0, [*heard, *((9.0, s) for s in STAGES), (9.5, "")], None, 9)])[
        "checkpoint"
    ] == pytest.approx(1.0)


def test_a_difference_is_seen_and_times_are_none(tmp_path):
    for name, seconds in (("a", 1), ("b", 2)):
        run = tmp_path / name / "run"
        (run / "tensorboard").mkdir(parents=True)
        (run / "tensorboard" / "events").write_text(name)
        (run / "weights").write_text("same")
        line = {"step": 1, "loss": 0.5, "images_per_second": seconds, "memory": seconds}
        (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert differences(tmp_path / "a", tmp_path / "b") == []
    (tmp_path / "b" / "run" / "weights").write_text("other")
    (tmp_path / "b" / "run" / ".weights.part").write_text("left behind")
    assert differences(tmp_path / "a", tmp_path / "b") == ["run/.weights.part", "run/weights"]


def test_all_fifty_killed_runs_ended_as_if_they_were_not():
    result = json.loads((RESULTS / "kills.json").read_text())
    killed = [row for row in result["rows"] if row["signals"][0]["signal"] == "SIGKILL"]
    assert len(killed) == 50
    assert all(-signal.SIGKILL in {one["exit_code"] for one in row["signals"]} for row in killed)
    differing = {file for row in result["rows"] for file in row["differing"]}
    last = ("run/checkpoints/00000006/", "run/artefact/", "export/")
    assert not [f for f in differing if f.startswith(last) and f.endswith(".safetensors")]
    assert all(f.endswith(".part") for row in killed for f in row["differing"]), "since removed"
    assert set(STAGES) <= result["kills_by_stage"].keys()
    assert result["most_steps_begun_after"] <= 1

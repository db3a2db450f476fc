"""Every figure in the README and the docs is that of its committed results file."""

import json
import re
import runpy
import shlex
import sys
from itertools import pairwise

import pytest

from fewstep.evaluation.intervals import SMALLEST_N, Interval
from fewstep.evaluation.results import Results, Row, save
from tools import figures
from tools.figures import MARK, RESULTS, ROOT, filled, pages, seconds_per_image


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_a_pages_figures_are_those_of_its_results(page):
    text = page.read_text(encoding="utf-8")
    assert text == filled(text), "run python tools/figures.py"


def test_the_readme_has_figures_at_all():
    assert "bundled" in {mark[2] for mark in MARK.finditer(pages()[0].read_text(encoding="utf-8"))}


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_a_results_file_names_the_one_command_that_makes_it(path, monkeypatch):
    words = shlex.split(json.loads(path.read_text(encoding="utf-8"))["command"])
    if words[0] == "fewstep":
        commands = (ROOT / "fewstep/cli/__init__.py").read_text()
        assert re.search(rf"^def {words[1]}\(", commands, re.MULTILINE)
        return
    assert words[0] == "python"
    is_module = words[1] == "-m"
    script = ROOT / (f"{words[2].replace('.', '/')}.py" if is_module else words[1])
    if is_module and not script.is_file():
        script = script.with_suffix("") / "__main__.py"
    arguments = words[3 if is_module else 2 :]
    assert script.is_file()
    if arguments:  # asked for help, a script looks at what stands before and does no work
        monkeypatch.setattr(sys, "argv", [str(script), *arguments, "--help"])
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(script), run_name="__main__")
        assert left.value.code == 0


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_a_results_file_has_no_interval_of_fewer_than_five_values(path):
    def checked(entry):
        assert not {"n", "low"} <= entry.keys() or entry["low"] is None or entry["n"] >= SMALLEST_N
        return entry

    json.loads(path.read_text(encoding="utf-8"), object_hook=checked)


@pytest.mark.parametrize("name", ["train_step_batches.json", "sampling.json"])
def test_an_image_takes_no_longer_in_a_larger_batch(name):
    rows = json.loads((RESULTS / name).read_text(encoding="utf-8"))["rows"]
    ours = [row for row in rows if row["design"] == "fewstep"]
    assert len(ours) > 1
    for small, large in pairwise(sorted(ours, key=lambda row: row["batch_size"])):
        assert seconds_per_image(large) <= 1.05 * seconds_per_image(small)


def interval(value, n=2000, ends=0.01):
    return Interval(value, value - ends, value + ends, n)


def matched(source, seed, difference):
    metrics = {
        "prompt_accuracy": interval(0.8 + difference),
        "prompt_accuracy_difference": interval(difference),
        "diversity": interval(3.0, 80),
        "diversity_ratio": interval(0.95, 80),
        "training_core_seconds": Interval(1234.0, None, None, 2),
    }
    return Row(source, "trajectory-matching", 4, 4, seed, metrics)


def test_the_table_of_trajectory_matching_has_pooled_rows_and_each_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    teacher = Row("bundled, guidance 2", "teacher", 50, 100, None,
                  {"prompt_accuracy": interval(0.8), "diversity": interval(3.2, 80)})  # fmt: skip
    rows = (teacher, matched("m-0", 0, -0.02), matched("m-1", 1, 0.01),
            matched("m-0, m-1", None, -0.005))  # fmt: skip
    save(Results("bundled", "python x.py", "c", "m", rows), tmp_path / "matching.json")
    text = figures.matching(each=True)
    lines = [line for line in text.splitlines() if line.startswith("| T")]
    assert [line.split(" | ")[0] for line in lines] == [
        "| Teacher, 50 steps", "| Trajectory matching, 4 steps",
        "| Trajectory matching, 4 steps, seed 0", "| Trajectory matching, 4 steps, seed 1",
    ]  # fmt: skip
    assert "−0.5 pts (" in lines[1] or "−0.5 (" in lines[1]
    assert lines[1].endswith("| 1234 s |"), "no interval of two trainings"
    assert lines[0].endswith("| – | – | – | – |")
    assert "n = 2,000 held-out prompts, 80 for diversity, 2 trainings a method, each of" in text
    pooled = figures.matching(each=False)
    assert "seed" not in pooled
    assert "2 trainings a method.\n" in pooled


@pytest.mark.parametrize("passed", [True, False])
def test_time_to_quality_is_a_sentence_either_way(tmp_path, monkeypatch, passed):
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    accuracy = {"value": 0.5, "low": 0.45, "high": 0.55, "n": 400}
    moment = {"run": "trajectory-matching-0", "step": 25, "seconds": 321.0, "accuracy": accuracy}
    results = {"command": "python x.py", "machine": "here", "moments": [],
               "script": {"accuracy": accuracy, "core_seconds": 1605.0},
               "passed": moment if passed else None,
               "share_of_the_scripts_seconds": 0.2 if passed else None}  # fmt: skip
    (tmp_path / "time_to_quality.json").write_text(json.dumps(results))
    words = "after 321: 0.20 of the script's" if passed else "No checkpoint reaches the script's 50"
    assert words in figures.time_to_quality()

"""The committed results of the bundled students come from one command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import students
from benchmarks.students import CORE_SECONDS, Training, chains, counted, run, with_core_seconds
from fewstep.cli import app
from fewstep.config import load_config
from fewstep.evaluation.results import Results, Row, load, save

ROOT = Path(__file__).parents[2]
SMALL = ["--num-prompts", "100"]  # the fewest for a Fréchet distance
for setting in ("train.steps=1", "train.batch_size=2", "data.num_pairs=8"):
    SMALL += ["--set", setting]


@pytest.mark.slow
def test_two_seeds_of_the_given_methods_are_trained_and_evaluated(tmp_path):
    out, runs = tmp_path / "bundled.json", tmp_path / "runs"
    command = ["benchmarks/students.py", "-o", str(out), "--runs", str(runs), "--brief"]
    command += ["--methods", "multi-boundary", "trajectory-matching", "--seeds", "0", "1", *SMALL]
    for setting in ("fake.warmup=1", "stop.num_prompts=2"):
        command += ["--set-matched", setting]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)

    results = json.loads(out.read_text(encoding="utf-8"))
    assert results["command"] == " ".join(["python", *command])
    trained = {(row["method"], row["seed"]) for row in results["rows"] if row["seed"] is not None}
    assert trained == {(m, s) for m in ("multi-boundary-cd", "trajectory-matching") for s in (0, 1)}
    adapters = runs.glob("trainings/*/artefact/adapter_model.safetensors")
    assert len({path.read_bytes() for path in adapters}) == 4  # all trainings differ
    students = [row for row in results["rows"] if row["method"] != "teacher"]
    assert all(row["metrics"][CORE_SECONDS]["value"] > 0 for row in students)


def test_a_matched_student_is_trained_after_the_one_that_it_starts_from(tmp_path):
    found = chains(tmp_path, ["cd", "multi-boundary", "trajectory-matching"], [0, 1], [4, 2])
    names = [[training.run.name for training in chain] for chain in found]
    assert names == [
        chain
        for seed in (0, 1)
        for chain in (
            [f"cd-{seed}"],
            [f"multi-boundary-{seed}", f"trajectory-matching-{seed}"],
            [f"multi-boundary-2-segments-{seed}", f"trajectory-matching-2-segments-{seed}"],
        )
    ]
    words = found[-1][1].words("distill")
    config = load_config(words[4], [w for w in words if "=" in w])
    assert config.method["num_segments"] == 2
    assert config.train.init == str(tmp_path / "multi-boundary-2-segments-1")
    assert config.train.seed == 1


def test_other_settings_of_trajectory_matching_share_their_start_student(tmp_path):
    ((start, matched),) = chains(
        tmp_path, ["trajectory-matching"], [3], [4], ["train.seed=9"], ("fake.updates=3",), "three"
    )
    assert start.run.name == "multi-boundary-3"
    assert matched.run.name == "trajectory-matching-three-3"
    assert "fake.updates=3" in matched.words("distill")
    assert "fake.updates=3" not in start.words("distill")
    assert all("train.seed=9" in training.words("distill") for training in (start, matched))


def test_a_varied_setting_has_a_training_and_its_own_start_student(tmp_path):
    found = chains(tmp_path, ["cd", "trajectory-matching"], [5], [4], varied=["model.quantize=nf4"])
    names = [[training.run.name for training in chain] for chain in found]
    assert names == [["cd-5"], ["cd-nf4-5"],
                     ["multi-boundary-5", "trajectory-matching-5"],
                     ["multi-boundary-nf4-5", "trajectory-matching-nf4-5"]]  # fmt: skip
    for chain in found:
        for training in chain:
            words = training.words("distill")
            config = load_config(words[4], [w for w in words if "=" in w])
            assert config.model.quantize == ("nf4" if "nf4" in training.run.name else "none")
    assert config.train.init == str(tmp_path / "multi-boundary-nf4-5")


def test_the_whole_command_evaluates_what_it_trained_and_adds_the_seconds(tmp_path, monkeypatch):
    """Its commands are parsed by the real command line; only their work is replaced."""
    evaluated = {}

    def evaluate_sources(sources, protocol, out, num_prompts, brief, **others):
        evaluated.update(names=[Path(source).name for source in sources], brief=brief)
        rows = tuple(Row(Path(s).name, "trajectory-matching", 4, 4, 0, {}) for s in sources)
        save(Results(protocol, "", "", "", rows), out / "results.json")
        return out / "results.json"

    def work(*command):
        words = list(command[command.index("fewstep") + 1 :])
        if words[0] == "evaluate":
            assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
        elif words[0] == "distill":
            (Path(words[words.index("--run") + 1]) / "artefact").mkdir(parents=True)
        return 100.0

    monkeypatch.setattr(students, "run", work)
    monkeypatch.setattr("fewstep.evaluation.evaluate.evaluate_sources", evaluate_sources)
    monkeypatch.setattr("fewstep.evaluation.evaluate.print_results", lambda path: None)
    words = ["-o", str(tmp_path / "out.json"), "--runs", str(tmp_path / "runs"), "--brief"]
    words += ["--methods", "trajectory-matching", "--seeds", "0", "--num-prompts", "100"]
    monkeypatch.setattr(sys, "argv", ["benchmarks/students.py", *words])
    students.main()
    assert evaluated == {"names": ["multi-boundary-0", "trajectory-matching-0"], "brief": True}
    took = {row.source: row.metrics[CORE_SECONDS].value for row in load(tmp_path / "out.json").rows}
    assert took == {"multi-boundary-0": 200.0, "trajectory-matching-0": 300.0}


def test_core_seconds_are_the_processors_and_not_the_clocks():
    busy = run(sys.executable, "-c", "t = __import__('time')\nwhile t.process_time() < 0.3: pass")
    idle = run(sys.executable, "-c", "__import__('time').sleep(0.6)")
    assert busy > 0.3
    assert idle < busy
    with pytest.raises(subprocess.CalledProcessError):
        run(sys.executable, "-c", "raise SystemExit(3)")


def test_a_students_core_seconds_count_from_zero(tmp_path):
    matched = Training(tmp_path, "trajectory-matching", 0)
    assert matched.start is not None
    for training, seconds in ((matched.start, 300.5), (matched, 400.0)):
        training.seconds_file.write_text(str(seconds))
    assert counted(tmp_path / "nothing.json") == 0
    rows = [Row("teacher", "teacher", 50, 100, None, {}),
            Row(matched.run.name, "trajectory-matching", 4, 4, 0, {})]  # fmt: skip
    trainings = [matched.start, matched]
    teacher, student = with_core_seconds(
        Results("", "", "", "", tuple(rows)), trainings, shared=50
    ).rows
    assert CORE_SECONDS not in teacher.metrics
    assert student.metrics[CORE_SECONDS].value == 750.5

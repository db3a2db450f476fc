"""Trainings from the page: processes of their own that save when they are stopped."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fewstep.config import to_toml
from fewstep.errors import UserError
from fewstep.images import png
from fewstep.ui.runs import RECIPE, Trainings, last_words
from tests.tiny import tiny_config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def trainings(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    started = Trainings(tmp_path)
    yield started
    started.close()


def until(holds, seconds=300):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_a_run_is_started_stopped_with_its_state_saved_and_continued(trainings):
    text = to_toml(tiny_config(steps=100_000, save_every=100_000, preview_every=5))
    trainings.start("mine", text)
    with pytest.raises(UserError, match="mine is being trained; stop it first"):
        trainings.start("mine", text)
    until(lambda: trainings.state("mine").step >= 3)
    state = trainings.state("mine")
    assert (state.status, state.steps) == ("training", 100_000)
    assert state.loss > 0
    assert state.images_per_second > 0
    assert state.time_left
    until(lambda: trainings.state("mine").preview_step >= 5)
    trainings.stop("mine")
    run = trainings.folder("mine")
    until(lambda: not trainings.is_running(run))
    stopped = trainings.state("mine")
    assert stopped.status == "stopped; Start continues it"
    assert (run / "checkpoints" / f"{stopped.step:08d}" / "state.json").is_file()
    trainings.start("mine", text)
    until(lambda: trainings.state("mine").step > stopped.step)
    trainings.close()
    assert not trainings.is_running(run)


def of_python(trainings, monkeypatch, program):
    """Make a training a program of Python's."""
    executable = trainings.root / "python"
    executable.write_text(f"#!{sys.executable}\n{program}\n")
    executable.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(executable))


def test_a_training_that_fails_says_why(trainings, monkeypatch):
    of_python(trainings, monkeypatch, "import sys\nsys.exit('bar 1/2\\nfewstep: no such\\ndata')")
    trainings.start("mine", "x = 1")
    until(lambda: not trainings.is_running(trainings.folder("mine")))
    state = trainings.state("mine")
    assert (state.status, state.message) == ("failed", "no such data")
    assert (trainings.folder("mine") / RECIPE).read_text() == "x = 1"


def test_on_windows_a_stop_is_not_taken_for_a_failure(trainings, monkeypatch):
    of_python(trainings, monkeypatch, "raise SystemExit(1)")
    run = trainings.folder("mine")
    trainings.start("mine", "")
    until(lambda: not trainings.is_running(run))
    assert trainings.state("mine").status == "failed"
    monkeypatch.setattr(sys, "platform", "win32")
    assert trainings.state("mine").status == "failed"
    trainings.stopped.add(run)  # as `stop` does before the signal, which ends it with code 1 there
    assert trainings.state("mine").status == "stopped; Start continues it"


def test_closing_waits_until_a_run_has_saved(trainings, monkeypatch):
    of_python(
        trainings,
        monkeypatch,
        "import signal, sys, time\n"
        "def save(*_):\n time.sleep(0.3); open('saved', 'w').close(); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\nopen('ready', 'w').close()\ntime.sleep(600)",
    )
    trainings.start("mine", "")
    until((trainings.root / "ready").exists)
    trainings.close()
    assert (trainings.root / "saved").exists()
    assert trainings.state("mine").status == "stopped; Start continues it"


def test_figures_come_from_the_runs_folder_whoever_trained_it(tmp_path):
    run = tmp_path / "runs" / "theirs"
    (run / "previews").mkdir(parents=True)
    (run / "config.toml").write_text(to_toml(replace(tiny_config(steps=10, batch_size=4))))
    entries = [{"step": s, "loss": 1 / s, "images_per_second": 8.0} for s in range(1, 5)]
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    (run / "metrics.jsonl").write_text(lines + '{"step": 5, "lo')  # is being written
    from PIL import Image

    (run / "previews" / "00000004.png").write_bytes(png(Image.new("RGB", (2, 2))))
    state = Trainings(tmp_path).state("theirs")
    assert (state.step, state.steps, state.loss, state.images_per_second) == (4, 10, 0.25, 8.0)
    assert state.time_left == "3 s"  # 6 steps of 4 images, 8 a second
    assert state.preview_step == 4
    assert state.preview is not None


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc", "-x", "a" * 99, "a\nb"])
def test_a_run_has_a_plain_name(tmp_path, name):
    with pytest.raises(UserError, match="the run's name is"):
        Trainings(tmp_path).folder(name)


def test_what_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="there is no run mine yet"):
        Trainings(tmp_path).state("mine")
    with pytest.raises(UserError, match="mine is not being trained"):
        Trainings(tmp_path).stop("mine")


def test_a_programs_last_words_are_its_error(tmp_path):
    output = tmp_path / "output.txt"
    output.write_text("step 1\nfewstep: a note\nfewstep: train.steps is 0;\nuse 1\n")
    assert last_words(output) == "train.steps is 0; use 1"

"""Images stop a run: what is measured of them, when it stops and which student stays."""

import json
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file

from fewstep.config import StopSettings, load_config, to_toml
from fewstep.errors import Interrupted, UserError
from fewstep.evaluation.report.plots import images_over_training
from fewstep.evaluation.report.runs import TrainingRun
from fewstep.student.load import read_contract
from fewstep.training import stopping
from fewstep.training.distill import distill_run
from fewstep.training.stopping import Stopped, compared, why_to_stop
from tests.tiny import tiny_config
from tests.together import run_together
from tests.training.test_distill import same, stop_after, weights

STOP = StopSettings(every=2, num_prompts=2, num_images=2)


def config(stop=STOP, **train):
    return replace(tiny_config(**train), stop=stop)


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").open()]


@pytest.fixture
def worsening(monkeypatch):
    """The images of the first check pass, and those of the second do not."""
    found = {2: {"diversity": 0.95, "contrast": 1.0}, 4: {"diversity": 0.7, "contrast": 1.0}}
    check = stopping.ImageMonitor.check_if_due

    def check_as_found(monitor):
        step = monitor.components.state.step
        monkeypatch.setattr(stopping, "compared", lambda *args: found[step])
        return check(monitor)

    monkeypatch.setattr(stopping.ImageMonitor, "check_if_due", check_as_found)
    return found


def test_images_drawn_together_lose_diversity_and_harsher_ones_gain_contrast():
    rng = np.random.default_rng(0)
    teacher = rng.normal(size=(6 * 3, 4, 8, 8)).astype(np.float32)
    stop = StopSettings(num_images=3)
    assert compared(teacher, teacher, stop) == pytest.approx({"diversity": 1, "contrast": 1})
    assert compared(1.5 * teacher + 2, teacher, stop) == pytest.approx(
        {"diversity": 1.5, "contrast": 1.5}, rel=1e-5
    )
    prompts = teacher.reshape(6, 3, 4, 8, 8)
    middle = prompts.mean(1, keepdims=True)
    nearer = (middle + 0.5 * (prompts - middle)).reshape(teacher.shape)
    assert compared(nearer, teacher, stop)["diversity"] == pytest.approx(0.5, rel=1e-5)


def test_the_rule_names_the_number_its_bound_and_its_setting():
    stop = StopSettings(min_diversity=0.9, max_contrast=1.1)
    assert why_to_stop({"diversity": 0.9, "contrast": 1.1}, stop) == ""
    assert "is 1.200 of the teacher's, above stop.max_contrast = 1.1" in why_to_stop(
        {"diversity": 1.0, "contrast": 1.2}, stop
    )


def test_without_the_table_nothing_is_looked_at(tmp_path):
    distill_run(config(None, steps=2), tmp_path)
    assert all("diversity" not in line for line in lines(tmp_path))
    assert not (tmp_path / "passed.safetensors").exists()


def test_images_are_measured_at_their_steps_and_change_no_weight(tmp_path, monkeypatch):
    loose = replace(STOP, min_diversity=0.0, max_contrast=100.0)
    whole = tmp_path / "whole"
    assert distill_run(config(loose, steps=5), whole) == 5
    assert [line["step"] for line in lines(whole) if "diversity" in line] == [2, 4, 5]
    assert all(0 < line["contrast"] < 100 for line in lines(whole) if "contrast" in line)
    distill_run(config(None, steps=5), tmp_path / "without")
    assert same(weights(whole), weights(tmp_path / "without"))

    stopped = tmp_path / "stopped"
    with pytest.raises(Interrupted):
        stop_after(3, signal.SIGINT, config(loose, steps=5), stopped)
    monkeypatch.setattr(stopping, "guided_teacher", None)  # its latents are kept
    distill_run(config(loose, steps=5), stopped)
    numbers = [[(r["step"], r.get("diversity"), r.get("contrast")) for r in lines(run)]
               for run in (whole, stopped)]  # fmt: skip
    assert numbers[0] == numbers[1]

    read = TrainingRun.read(whole)
    assert [step for step, _ in read.images["contrast"]] == [2, 4, 5]
    assert "Multi-boundary CD, diversity" in images_over_training([read])
    assert images_over_training([TrainingRun.read(tmp_path / "without")]) == ""


def test_a_run_stops_at_the_first_check_that_fails_and_keeps_the_student_before(
    worsening, tmp_path, capsys
):
    run = tmp_path / "run"
    assert distill_run(config(), run) == 2
    assert [line["step"] for line in lines(run)] == [1, 2, 3, 4]
    assert lines(run)[-1]["diversity"] == 0.7
    expected = Stopped(4, 2, why_to_stop(worsening[4], STOP))
    assert Stopped.read(run) == expected
    assert f"{run} stopped at step 4: the images' diversity" in capsys.readouterr().err
    assert read_contract(run / "artefact").train["steps"] == 2

    with pytest.raises(Interrupted):
        stop_after(2, signal.SIGINT, config(None), tmp_path / "two")
    averaged = load_file(tmp_path / "two" / "checkpoints" / "00000002" / "averaged.safetensors")
    assert same(averaged, load_file(run / "passed.safetensors"))
    kept = weights(run)
    last = load_file(run / "artefact" / "adapter_model.safetensors")
    name = next(name for name in averaged if name.endswith("lora_A.weight"))
    assert any(np.array_equal(averaged[name], value) for value in last.values())

    assert distill_run(config(), run) == 2  # the same command again: nothing is trained
    assert same(kept, weights(run))
    assert len(lines(run)) == 4


def test_an_interrupted_run_stops_where_a_whole_one_does(worsening, tmp_path):
    distill_run(config(), tmp_path / "whole")
    run = tmp_path / "stopped"
    with pytest.raises(Interrupted, match="after step 3"):
        stop_after(3, signal.SIGINT, config(), run)
    assert distill_run(config(), run) == 2
    assert same(weights(tmp_path / "whole"), weights(run))


def test_a_first_check_that_fails_leaves_no_student(worsening, tmp_path):
    worsening[2] = {"diversity": 1.0, "contrast": 1.5}
    words = (
        r"at step 2, fails: the images' contrast is 1\.500 of .* stop\.max_contrast = 1\.2\. The"
    )
    with pytest.raises(UserError, match=words):
        distill_run(config(), tmp_path)
    assert not (tmp_path / "artefact").exists()


def test_the_table_is_written_and_read_like_the_others(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config()))
    assert load_config(path) == config()
    with pytest.raises(UserError, match=r"stop\.num_images is 1"):
        load_config(path, ["stop.num_images=1"])


def trained(rank: int, settings, run) -> None:
    distill_run(settings, run)


def test_two_processes_stop_together(tmp_path):
    harsh = replace(STOP, every=1, min_diversity=0.0, max_contrast=100.0)
    run, settings = tmp_path / "two", config(harsh, steps=3, batch_size=1)
    distill_run(config(harsh, steps=1), run)  # leaves a student that passed
    (run / "stop-teacher.safetensors").unlink()
    for path in ("config.toml", "artefact", "checkpoints", "metrics.jsonl"):
        shutil.rmtree(run / path) if (run / path).is_dir() else (run / path).unlink()
    settings = replace(settings, stop=replace(harsh, max_contrast=1e-6))
    assert run_together(2, trained, settings, run) == [0, 0]
    assert len(lines(run)) == 1
    assert Stopped.read(run).step == 1


def test_a_run_without_an_average_is_stopped_as_well(worsening, tmp_path):
    run = tmp_path / "run"
    assert distill_run(config(ema=0.0), run) == 2
    with pytest.raises(Interrupted):
        stop_after(2, signal.SIGINT, config(None, ema=0.0), tmp_path / "two")
    trained = load_file(tmp_path / "two" / "checkpoints" / "00000002" / "trained.safetensors")
    assert same(trained, load_file(run / "passed.safetensors"))

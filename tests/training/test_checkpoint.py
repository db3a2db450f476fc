"""Checkpoints are whole or absent, and bring everything back to the bit."""

import errno
import json
import shutil
from dataclasses import replace
from io import FileIO

import pytest
import torch
from torch.amp.grad_scaler import GradScaler

from fewstep import files
from fewstep.errors import UserError
from fewstep.training.checkpoint import Checkpoints
from fewstep.training.divergence import DivergenceMonitor, TrainingDivergedError
from tests.training.test_trainer import SETTINGS, Toy


@pytest.fixture
def toy(schedule):
    return Toy(schedule)


def test_training_continues_from_a_checkpoint_as_if_never_stopped(tmp_path, schedule, toy):
    list(toy.steps(SETTINGS))
    half = Toy(schedule)
    for result in half.steps(SETTINGS):
        if result.step == 2:
            Checkpoints(tmp_path, half.state, 2).save()
            break
    resumed = Toy(schedule)
    Checkpoints(tmp_path, resumed.state, 2).load_last()
    assert resumed.state.step == 2
    list(resumed.steps(SETTINGS))
    assert torch.equal(resumed.network.weight, toy.network.weight)
    assert torch.equal(resumed.state.averaged["bias"], toy.state.averaged["bias"])


def test_the_last_checkpoints_are_kept(tmp_path, toy):
    checkpoints = Checkpoints(tmp_path, toy.state, keep_last=2)
    next(toy.steps(SETTINGS))
    for step in (1, 2, 3, 4):
        save_as(checkpoints, step)
    assert [path.name for path in checkpoints.saved] == ["00000003", "00000004"]


def save_as(checkpoints, step):
    checkpoints.state.step = step
    checkpoints.save()


def losses_from(step, monitor):
    """Show the monitor losses that are a hundred times as high from step 61 on."""
    for number in range(step, 100):
        monitor.check_loss(number, torch.tensor([1.0 if number < 60 else 101.0]), ())
        yield number + 1


def test_an_exploding_loss_leaves_what_was_before_and_is_still_noticed_when_resumed(
    tmp_path, schedule, toy
):
    checkpoints = Checkpoints(tmp_path, toy.state, keep_last=2)
    next(toy.steps(SETTINGS))
    toy.state.monitor = DivergenceMonitor()
    alarm = r"step 85: the loss explodes.* was 1 and is 101; .*in a new --run folder"
    with pytest.raises(TrainingDivergedError, match=alarm):
        [save_as(checkpoints, s) for s in losses_from(0, toy.state.monitor) if s % 10 == 0]
    assert [path.name for path in checkpoints.saved] == ["00000060", "00000070", "00000080"]

    resumed = Toy(schedule).state
    Checkpoints(tmp_path, resumed, keep_last=2).load_last()
    with pytest.raises(TrainingDivergedError, match=alarm):
        list(losses_from(resumed.step, resumed.monitor))


def test_a_stable_run_keeps_no_more_than_set(tmp_path, toy):
    checkpoints = Checkpoints(tmp_path, toy.state, keep_last=1)
    for _ in toy.steps(replace(SETTINGS, steps=40)):
        checkpoints.save()
    assert [path.name for path in checkpoints.saved] == ["00000040"]


def test_what_is_saved_already_needs_no_more_room(tmp_path, toy):
    checkpoints = Checkpoints(tmp_path / "checkpoints", toy.state, keep_last=2)
    before = checkpoints.needed_bytes
    next(toy.steps(SETTINGS))
    path = checkpoints.save()
    saved = sum(file.stat().st_size for file in path.iterdir())
    assert before == 4 * 4 * (3 * 3 + 3) * 4, "four copies, of weights, average and two moments"
    assert checkpoints.needed_bytes == max(0, before - saved)


def test_a_half_written_checkpoint_is_not_loaded(tmp_path, toy):
    checkpoints = Checkpoints(tmp_path, toy.state, keep_last=2)
    next(toy.steps(SETTINGS))
    checkpoints.save()
    half = tmp_path / ".00000002.part"
    half.mkdir()
    (half / "state.json").write_text(json.dumps({"step": 2}))
    checkpoints.load_last()
    assert toy.state.step == 1


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path, toy, monkeypatch):
    checkpoints = Checkpoints(tmp_path, toy.state, keep_last=1)
    next(toy.steps(SETTINGS))
    checkpoints.save()

    class FullDisk(FileIO):
        """Takes half of what is written to it."""

        def write(self, content):
            super().write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "open", FullDisk, raising=False)
    with pytest.raises(OSError, match="No space left"):
        save_as(checkpoints, 2)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["00000001"]
    checkpoints.load_last()
    assert toy.state.step == 1


@pytest.mark.parametrize("name", ["trained", "averaged", "optimizer"])
def test_a_checkpoint_truncated_in_the_middle_is_named(tmp_path, toy, name):
    checkpoints = Checkpoints(tmp_path, toy.state, keep_last=2)
    next(toy.steps(SETTINGS))
    for step in (1, 2):
        save_as(checkpoints, step)
    path = tmp_path / "00000002" / f"{name}.safetensors"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"00000002 is damaged.*delete this folder to continue"):
        checkpoints.load_last()
    shutil.rmtree(path.parent)
    checkpoints.load_last()
    assert toy.state.step == 1


def test_the_scale_of_the_loss_is_kept(tmp_path, toy):
    scaler = GradScaler("cpu", init_scale=2.0**5)
    toy.state.scaler = scaler
    next(toy.steps(SETTINGS))
    checkpoints = Checkpoints(tmp_path, toy.state, 1)
    checkpoints.save()
    toy.state.scaler = again = GradScaler("cpu")
    checkpoints.load_last()
    assert again.state_dict() == scaler.state_dict()
    assert again.get_scale() == 2.0**5


def test_a_checkpoint_of_another_model_is_refused(tmp_path, toy):
    checkpoints = Checkpoints(tmp_path, toy.state, keep_last=1)
    next(toy.steps(SETTINGS))
    checkpoints.save()
    toy.state.trained["bias"].data = torch.zeros(5)
    with pytest.raises(UserError, match=r"another model or adapter; use a new --run"):
        checkpoints.load_last()

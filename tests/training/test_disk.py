"""A disk that fills up during a run: what is missing is named, and the run goes on afterwards."""

from contextlib import ExitStack

import pytest
import torch
from safetensors.torch import load_file

from fewstep.files import NotWrittenError
from fewstep.training.distill import TrainingStep, distill, distill_run
from fewstep.training.trackers import Trackers
from tests.disk import room_for
from tests.tiny import tiny_config


def weights(run):
    return load_file(run / "artefact" / "pytorch_lora_weights.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "whole"
    distill_run(tiny_config(), run)
    return weights(run)


def train_without_room(run, num_bytes):
    """Train, with no room for longer files from the third step on."""
    with ExitStack() as stack:
        for event in distill(tiny_config(), run):
            if isinstance(event, TrainingStep) and event.done == 3:
                stack.enter_context(room_for(num_bytes))


@pytest.mark.parametrize(
    ("num_bytes", "missing"), [(1, "metrics.jsonl"), (20_000, "checkpoints/00000004")]
)
def test_a_disk_that_fills_up_is_told_and_the_run_continues_to_the_same_weights(
    tmp_path, whole, num_bytes, missing
):
    run = tmp_path / "run"
    told = f"{run / missing} was not written: File too large; what was saved before is whole"
    with pytest.raises(NotWrittenError, match=told):
        train_without_room(run, num_bytes)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["00000002"]
    assert distill_run(tiny_config(), run) == 6
    assert all(torch.equal(weight, whole[name]) for name, weight in weights(run).items())


def log_without_room(trackers):
    """Log more than waits in any queue, with no room for it."""
    with room_for(100):
        for step in range(1, 2000):
            trackers.log({"step": step, "loss": 0.5, "loss_by_noise": [0.5] * 4})
    trackers.close()


def test_a_full_disk_under_tensorboards_thread_is_told_and_nothing_waits_for_it(tmp_path, capfd):
    with pytest.raises(NotWrittenError, match="tensorboard was not written: File too large"):
        log_without_room(Trackers(tiny_config(), tmp_path, 0))
    assert "Traceback" not in capfd.readouterr().err

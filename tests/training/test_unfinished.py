"""A run that is not finished is sampled by its last checkpoint, and says so."""

import re
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest

from fewstep.config import AdapterSettings
from fewstep.errors import Interrupted, SettingError
from fewstep.student.load import ArtefactError, read_artefact
from fewstep.student.pipeline import FewStepPipeline
from fewstep.student.sample import SampleOptions, generate_file
from fewstep.training.distill import distill_run
from tests.tiny import tiny_config, tiny_pipeline
from tests.training.test_distill import stop_after


@pytest.mark.parametrize("adapter", [AdapterSettings(rank=2, alpha=3.0), None])
def test_an_unfinished_run_is_sampled_as_one_that_ends_at_its_last_checkpoint(tmp_path, adapter):
    constant = {"decay": "constant", "warmup": 0, "save_every": 2}
    long, short = (
        replace(tiny_config("cd", steps=steps, **constant), adapter=adapter) for steps in (6, 2)
    )
    with pytest.raises(Interrupted):
        stop_after(3, signal.SIGINT, long, tmp_path / "long")
    shutil.rmtree(tmp_path / "long" / "checkpoints" / "00000003")
    distill_run(short, tmp_path / "short")
    ours, theirs = (
        FewStepPipeline.from_pretrained(tmp_path / run)("a star", seed=3)[0]
        for run in ("long", "short")
    )
    assert np.array_equal(np.asarray(ours.image), np.asarray(theirs.image))
    assert (ours.settings["Trained"], "Trained" in theirs.settings) == ("step 2 of 6", False)
    with pytest.raises(ArtefactError, match="is a run that is not trained to its end: run its few"):
        read_artefact(tmp_path / "long")
    told = generate_file(
        str(tmp_path / "long"), ["a star"], None, tmp_path / "a.png", SampleOptions()
    )
    assert "; the run is not finished, this is its step 2 of 6" in told
    (tmp_path / "long" / "checkpoints" / "00000002" / "averaged.safetensors").write_bytes(b"half")
    with pytest.raises(ArtefactError, match=r"checkpoint .*00000002 is damaged"):
        FewStepPipeline.from_pretrained(tmp_path / "long")


def test_a_finished_run_says_how_it_is_trained_further(tmp_path):
    distill_run(tiny_config("cd", steps=1), run := tmp_path / "run")
    further = re.escape(f"another --run folder with train.init = {str(run)!r}, to train its stud")
    with pytest.raises(SettingError, match=rf"train.steps = 1 there, 2 here.*{further}"):
        distill_run(tiny_config("cd", steps=2), run)
    assert distill_run(tiny_config("cd", steps=2, init=str(run)), tmp_path / "further") == 2
    with pytest.raises(
        ArtefactError, match="is a model and no student: give a run, or an artefact"
    ):
        read_artefact(tiny_pipeline())

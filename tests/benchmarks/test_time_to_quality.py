"""Time to quality counts from zero and stops at the first checkpoint that passes."""

import json
from dataclasses import replace

import pytest

from benchmarks.students import CORE_SECONDS, Training
from benchmarks.time_to_quality import Moment, first_past, goal_of, moments, seconds_by_step
from fewstep.config import ModelSettings
from fewstep.errors import UserError
from fewstep.evaluation.intervals import Interval
from fewstep.evaluation.results import Results, Row
from fewstep.evaluation.samples import SampleCache
from fewstep.training.distill import distill_run
from tests.tiny import tiny_config


def accuracy(value):
    return Interval(value, value, value, 100)


def test_what_is_not_in_the_steps_comes_before_the_first(tmp_path):
    lines = [{"images_per_second": rate} for rate in (8.0, 4.0, 8.0)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert seconds_by_step(tmp_path, 10.0, 8) == pytest.approx([7.0, 9.0, 10.0])
    assert seconds_by_step(tmp_path, 3.0, 8) == pytest.approx([1.0, 3.0, 4.0])


def test_the_first_moment_that_passes_counts_and_none_may():
    found = [Moment("a", step, 10.0 * step, accuracy(value))
             for step, value in ((1, 0.3), (2, 0.5), (3, 0.4), (4, 0.6))]  # fmt: skip
    assert first_past(0.45, found) == found[1]
    assert first_past(0.7, found) is None


def test_the_goal_is_the_scripts_row(tmp_path):
    metrics = {"prompt_accuracy": accuracy(0.4), CORE_SECONDS: Interval(900, None, None, 1)}
    rows = (Row("a", "cd", 4, 4, 0, {}), Row("b", "Public LCM script", 4, 4, 0, metrics))
    assert goal_of(Results("", "", "", "", rows)) == (accuracy(0.4), 900)
    with pytest.raises(UserError, match="no row of the public script"):
        goal_of(Results("", "", "", "", rows[:1]))


@pytest.mark.slow
def test_every_checkpoint_is_sampled_and_measured(tmp_path):
    training = Training(tmp_path, "multi-boundary", 0)
    config = replace(tiny_config(steps=4, save_every=2, keep_last=9), model=ModelSettings())
    distill_run(config, training.run)
    training.seconds_file.write_text("50.0")
    cache = SampleCache(tmp_path / "images", ["a red heart", "two blue stars"] * 2, 64)
    found = [*moments(training, 7.0, cache)]
    assert [(m.run, m.step) for m in found] == [("multi-boundary-0", 2), ("multi-boundary-0", 4)]
    assert found[0].seconds < found[1].seconds == pytest.approx(57, abs=1)
    assert all(m.accuracy.n == 4 for m in found)

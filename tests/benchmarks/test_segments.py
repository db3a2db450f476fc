"""An untrained student jumps like its unguided teacher."""

from dataclasses import replace

import pytest

from benchmarks.segments import measured
from fewstep.errors import UserError
from fewstep.training.distill import distill_run
from tests.tiny import tiny_config


def test_the_errors_of_all_jumps_are_measured_from_the_same_points(tmp_path):
    config = tiny_config(steps=1, learning_rate=1e-12)
    method = {"name": "multi-boundary-cd", "num_solver_steps": 8}
    distill_run(replace(config, method=method), tmp_path / "run")
    rows = measured(str(tmp_path / "run"), 3)
    assert [(row["start"], row["end"]) for row in rows[::2]] == [
        (999, 749), (749, 499), (499, 249), (249, -1)
    ]  # fmt: skip
    for row in rows:
        unguided = row["teacher, unguided"]["value"]
        assert row["student"]["value"] == pytest.approx(unguided, rel=1e-4)
        assert row["teacher, guided"]["value"] != pytest.approx(unguided, rel=1e-2)


def test_a_student_of_one_segment_is_refused(tmp_path):
    distill_run(replace(tiny_config(steps=1), method={"name": "cd"}), tmp_path / "run")
    with pytest.raises(UserError, match="one segment; this is for multi-boundary students"):
        measured(str(tmp_path / "run"), 2)

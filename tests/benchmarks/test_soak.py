"""A long run stays as large and as fast as it began."""

import json

import numpy as np
import pytest

from benchmarks import soak


def test_a_slope_and_its_interval_are_those_of_the_line():
    steps = np.arange(0, 10_000, 100)
    wave = 0.1 * np.where(np.arange(100) % 2, 1.0, -1.0)
    found = soak.slope(steps, 3.0 + 0.002 * steps + wave)
    assert found.value == pytest.approx(2.0, abs=0.01)
    assert found.low < 2.0 < found.high
    flat = soak.slope(steps, 3.0 + wave)
    assert flat.low < 0 < flat.high


def test_the_size_of_a_folder_is_that_of_its_files(tmp_path):
    assert soak.bytes_in(tmp_path / "missing") == 0
    (tmp_path / "deep").mkdir()
    for name in ("a", "deep/b"):
        (tmp_path / name).write_bytes(bytes(10))
    assert (soak.bytes_in(tmp_path), soak.bytes_in(tmp_path / "a")) == (20, 10)


def test_the_committed_soak_shows_flat_memory_flat_steps_and_even_logs():
    result = json.loads((soak.ROOT / "benchmarks/results/soak.json").read_text(encoding="utf-8"))
    assert result["step"][-1] == 10_000
    growth = result["mib_per_1000_steps"]
    assert growth["high"] * 10 < 0.05 * result["resident_mib"][-1]
    first, _, last = result["milliseconds_by_third"]
    assert last["value"] < 1.1 * first["value"]
    assert result["metrics_bytes_per_step"]["high"] < 1000
    previews, checkpoints = result["previews bytes"], result["checkpoints bytes"]
    assert max(checkpoints[50:]) <= 1.1 * max(checkpoints[:50])
    assert len(set(previews)) <= 5, "the folder grows with the previews, of which there are four"


@pytest.mark.slow
def test_a_short_soak_has_a_value_for_each_block():
    result = soak.measure(100)
    assert result["step"] == list(range(1, 101))
    assert len(result["resident_mib"]) == len(result["milliseconds"]) == soak.BLOCKS
    assert np.diff(result["metrics.jsonl bytes"]).min() > 100

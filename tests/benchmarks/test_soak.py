"""A long run stays as large and as fast as it began."""

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


@pytest.mark.slow
def test_a_short_soak_has_a_value_for_each_block():
    result = soak.measure(100)
    assert result["step"] == list(range(1, 101))
    assert len(result["resident_mib"]) == len(result["milliseconds"]) == soak.BLOCKS
    assert np.diff(result["metrics.jsonl bytes"]).min() > 100

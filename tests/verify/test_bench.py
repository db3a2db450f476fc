"""The whole bench, at a size that only shows that its parts fit together."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch

from fewstep.verify import bench
from fewstep.verify.effort import QUICK, silently

TINY = dataclasses.replace(
    QUICK,
    num_samples=40,
    order_steps=(20, 40),
    bias_steps=(10, 20),
    num_seeds=2,
    pretraining_steps=3,
    training_steps=3,
    batch_size=16,
)


@pytest.mark.slow
def test_the_bench_measures_saves_and_leaves_the_threads_alone(tmp_path):
    threads = torch.get_num_threads()
    results = bench.measure(TINY, silently)
    bench.save(results, tmp_path / "new" / "folder")
    saved = json.loads((tmp_path / "new/folder/verify.json").read_text(encoding="utf-8"))
    assert saved["networks"] == results["networks"]
    assert (tmp_path / "new/folder/verify.png").exists()
    assert torch.get_num_threads() == threads


@pytest.mark.slow
def test_the_quick_command_ends_well_and_soon(tmp_path):
    command = [sys.executable, "-m", "fewstep", "verify", "--quick", "-o", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    results = json.loads((tmp_path / "verify.json").read_text(encoding="utf-8"))
    assert results["command"] == "fewstep verify --quick -o DIR"
    assert results["commit"]
    assert "torch" in results["machine"]
    assert all(p["holds"] for p in results["predictions"])
    assert len(results["predictions"]) >= 15
    assert results["cpu_seconds"] < 45  # about 25 on a server's core
    assert (tmp_path / "verify.png").stat().st_size > 50_000

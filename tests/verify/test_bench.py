"""The whole bench, at a size that only shows that its parts fit together."""

import dataclasses
import json

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

"""The committed results of the bundled students come from one command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = ["--num-prompts", "100"]  # the fewest for a Fréchet distance
for setting in ("train.steps=1", "train.batch_size=2", "data.num_pairs=8"):
    SMALL += ["--set", setting]


@pytest.mark.slow
def test_two_seeds_of_the_given_methods_are_trained_and_evaluated(tmp_path):
    out, runs = tmp_path / "bundled.json", tmp_path / "runs"
    command = ["benchmarks/students.py", "-o", str(out), "--runs", str(runs)]
    command += ["--methods", "cd", "multi-boundary", "--seeds", "0", "1", *SMALL]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)

    results = json.loads(out.read_text(encoding="utf-8"))
    assert results["command"] == " ".join(["python", *command])
    trained = {(row["method"], row["seed"]) for row in results["rows"] if row["seed"] is not None}
    assert trained == {(m, s) for m in ("cd", "multi-boundary-cd") for s in (0, 1)}
    adapters = runs.glob("trainings/*/artefact/adapter_model.safetensors")
    assert len({path.read_bytes() for path in adapters}) == 4  # all trainings differ

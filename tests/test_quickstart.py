"""The whole story by its own functions, small: interrupted on the way, it continues to the page."""

import json
import signal

import pytest

from fewstep import quickstart
from fewstep.errors import Interrupted

SMALLER = ("train.steps=4", "train.batch_size=4", "train.warmup=1", "data.num_pairs=16",
           "train.preview_every=0")  # fmt: skip


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(quickstart, "QUICK", SMALLER)
    monkeypatch.setattr(quickstart, "QUICK_NUM_PROMPTS", 100)


def stopped_in_cd(events):
    """Press Ctrl-C after the second step of the second method."""
    for event in events:
        if event.task == "training cd" and event.done == 2:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
def test_an_interrupted_quick_start_continues_to_its_report(small, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(quickstart, "show_progress", stopped_in_cd)
        with pytest.raises(Interrupted, match="after step 2"):
            quickstart.run_quickstart(tmp_path, quick=True)
    first = tmp_path / "ct" / "metrics.jsonl"
    written = first.stat().st_mtime_ns

    told = quickstart.run_quickstart(tmp_path, quick=True)
    assert told.startswith(f"open {tmp_path / 'report.html'}; next: fewstep sample ")
    assert first.stat().st_mtime_ns == written  # what was done is not done again
    logged = [json.loads(line) for line in (tmp_path / "cd" / "metrics.jsonl").open()]
    assert [entry["step"] for entry in logged] == [1, 2, 3, 4]

    results = json.loads((tmp_path / "evaluation" / "results.json").read_text())
    shown = {(row["method"], row["steps"]) for row in results["rows"]}
    assert {("teacher", 50), ("teacher", 4)} < shown
    assert {(m, 4) for m in ("ct", "cd", "multi-boundary-cd")} < shown
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") >= 1
    told = " ".join(capsys.readouterr().out.split())
    assert "4 of the 500 steps in configs/, one training a method, 100 prompts." in told

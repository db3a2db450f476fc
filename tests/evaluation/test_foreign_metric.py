"""A metric from outside the package needs its line in METRICS alone."""

import io

import numpy as np
import pytest
from rich.console import Console

from fewstep.evaluation.evaluate import evaluate_images, evaluate_sources
from fewstep.evaluation.metrics import METRICS, Metric
from fewstep.evaluation.metrics.pairs import rmse
from fewstep.evaluation.protocols import PROTOCOLS, Protocol
from fewstep.evaluation.report.write import write_report
from fewstep.evaluation.results import load
from fewstep.evaluation.terminal import summary
from fewstep.images import png

PROMPTS = ["a star", "two red rings", "a heart"]


def brightness(images):
    return images.mean((1, 2, 3)) / 255


def length(images, prompts):
    assert len(images) == len(prompts)
    return np.array([len(prompt) for prompt in prompts], float)


def spread(latents, teacher):
    return rmse(latents, teacher)


@pytest.fixture
def foreign(monkeypatch):
    for name, metric in {
        "brightness": Metric(brightness, "Brightness", "mean grey level", "higher"),
        "length": Metric(length, "Length", "letters of the prompt", "lower", against="prompts"),
        "spread": Metric(spread, "Spread", "of latents", "lower", of="latents", against="teacher"),
    }.items():
        monkeypatch.setitem(METRICS, name, metric)


def shown(results):
    console = Console(file=io.StringIO(), width=200)
    console.print(summary(results, 200))
    return console.file.getvalue()


def test_a_foreign_metric_is_measured_shown_and_reported(foreign, runs, tmp_path, monkeypatch):
    mine = Protocol("prompts of mine", None, "", ("brightness", "length"))
    monkeypatch.setitem(PROTOCOLS, "mine", mine)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    path = evaluate_sources([str(runs / "ct")], "mine", tmp_path / "out", student_steps=(1,),
                            prompt_file=tmp_path / "prompts.txt")  # fmt: skip
    results = load(path)
    assert results.protocol.startswith("mine; 3 prompts of mine (")
    rows = {(row.method, row.steps, row.calls): row.metrics for row in results.rows}
    ct, teacher = rows["ct", 1, 1], rows["teacher", 50, 100]
    assert 0 < ct["brightness"].value < 1
    assert ct["length"].value == pytest.approx(np.mean([len(prompt) for prompt in PROMPTS]))
    assert ct["spread"] == ct["latent_rmse"]
    assert "spread" not in teacher
    assert "spread" not in rows["ct", 4, 4], "fresh noise leaves nothing to compare"
    assert all(title in shown(results) for title in ("Brightness", "Length", "Spread"))
    html = write_report([tmp_path / "out"], tmp_path / "report.html").read_text()
    assert "Mean grey level. Higher is better." in html


def test_a_metric_beside_real_images_is_of_the_whole_set():
    with pytest.raises(ValueError, match="real images are a set; give whole_set=True"):
        Metric(brightness, "Mine", "something", "higher", against="reference")


def test_a_foreign_metric_scores_a_folder_by_every_protocol(foreign, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.png").write_bytes(png(np.full((8, 8, 3), 51 * (i + 1), np.uint8)))
    results = load(evaluate_images([folder], "prompts", tmp_path / "out"))
    (row,) = results.rows
    assert row.metrics.keys() == {"brightness"}
    assert row.metrics["brightness"].value == pytest.approx(0.4)
    assert results.unavailable["length"] == "needs --prompts FILE, one line an image"
    assert "the network or its latents" in results.unavailable["spread"]
    assert "Brightness" in shown(results)

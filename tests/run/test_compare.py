"""Students and their teacher are painted from the same noises, once, and put side by side."""

from dataclasses import replace

import numpy as np
import pytest

from fewstep.errors import UserError
from fewstep.evaluation.results import load
from fewstep.run.compare import compare_sources, load_comparison
from fewstep.run.contestants import Field
from fewstep.run.distill import distill_run
from fewstep.run.evaluate import Measured, evaluate_sources, pooled_rows
from fewstep.run.gallery import Gallery
from fewstep.run.report import write_report
from tests.tiny import tiny_config

PROMPTS = ["a star", "two red rings", "a heart"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for method in ("ct", "multi-boundary-cd"):
        distill_run(tiny_config(method, steps=1), folder / method)
    return folder


def test_a_folder_of_runs_stands_for_its_runs(runs):
    assert [student.source for student in Field.open([str(runs)]).students] == [
        "ct",
        "multi-boundary-cd",
    ]


def test_pictures_are_painted_once_and_do_not_depend_on_how_many_are_asked(runs, tmp_path):
    field = Field.open([str(runs)])
    contestant = field.student(field.students[1])
    made = Gallery(tmp_path, PROMPTS, 64).of(contestant)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = Gallery(tmp_path, PROMPTS, 64).of(replace(contestant, painter=None))
    assert np.array_equal(made.pictures, again.pictures)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    fewer = Gallery(tmp_path / "fewer", PROMPTS[:2], 64).of(contestant)
    assert np.abs(fewer.latents - made.latents[:2]).max() < 1e-4
    other = Gallery(tmp_path / "other", PROMPTS, 64, seed=1).of(contestant)
    assert not np.array_equal(made.pictures, other.pictures)


def test_a_comparison_shows_teacher_and_students_with_calls_and_seconds(runs, tmp_path):
    path = compare_sources([str(runs)], PROMPTS, None, 0, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")
    shown = load_comparison(tmp_path)
    titles = ["Teacher, 50 steps", "Teacher, 4 steps", "CT, 4 steps", "Multi-boundary CD, 4 steps"]
    assert list(shown.columns) == titles
    assert list(shown.prompts) == PROMPTS
    rows = load(tmp_path / "results.json").rows
    assert [row.calls for row in rows] == [100, 8, 4, 4]
    assert all(row.metrics["seconds_per_image"].value > 0 for row in rows)
    html = write_report([tmp_path, runs / "ct"], tmp_path / "report.html").read_text()
    assert "two red rings" in html


def test_students_of_different_guidance_are_not_compared(runs, tmp_path):
    config = tiny_config("cd", steps=1)
    distill_run(
        replace(config, teacher=replace(config.teacher, guidance_scale=2.0)), tmp_path / "g"
    )
    with pytest.raises(UserError, match=r"differ in their guidance scale \(.*2.0"):
        Field.open([str(runs), str(tmp_path / "g")])


def test_the_bundled_protocol_is_for_the_bundled_teacher(runs, tmp_path):
    with pytest.raises(UserError, match="use fewstep compare"):
        evaluate_sources([str(runs)], "bundled", tmp_path)
    with pytest.raises(UserError, match="unknown protocol 'coco'; known: bundled"):
        evaluate_sources([str(runs)], "coco", tmp_path)
    with pytest.raises(UserError, match="needs 100 or more"):
        evaluate_sources([str(runs)], "bundled", tmp_path, 20)


def test_several_trainings_of_a_method_are_pooled_into_one_row(runs):
    field = Field.open([str(runs)])
    contestant = field.student(field.students[1])
    accuracies = ([1, 0, 1, 1], [1, 1, 1, 1])
    seconds = Gallery  # not asked here
    measured = [
        Measured(
            replace(contestant, seed=seed),
            4,
            {"prompt_accuracy": np.array(values, float)},
            [{"shape": bool(value)} for value in values],
            seconds,
        )
        for seed, values in enumerate(accuracies)
    ]
    (row,) = pooled_rows(measured)
    assert (row.seed, row.steps, row.calls) == (None, 4, 4)
    assert row.metrics["prompt_accuracy"].value == pytest.approx(7 / 8)
    assert row.metrics["prompt_accuracy.shape"].n == 4


def test_nothing_to_report_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"holds neither results.json nor a run's config.toml"):
        write_report([tmp_path], tmp_path / "report.html")

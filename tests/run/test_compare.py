"""Students and their teacher are painted from the same noises, once, and put side by side."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from fewstep.errors import UserError
from fewstep.evaluation.intervals import Interval
from fewstep.evaluation.results import Results, Row, load, save
from fewstep.run import evaluate
from fewstep.run.compare import compare_sources, load_comparison, save_comparison
from fewstep.run.contestants import Field
from fewstep.run.distill import distill_run
from fewstep.run.evaluate import (
    Measured,
    as_row,
    check_distinct,
    evaluate_sources,
    is_shown,
    line_up,
    measure,
    pooled_rows,
)
from fewstep.run.gallery import Gallery, Made
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
    with pytest.raises(UserError, match="--num-prompts is 0"):
        evaluate_sources([str(runs)], "bundled", tmp_path, 0)


def test_several_trainings_of_a_method_are_pooled_into_one_row(runs):
    field = Field.open([str(runs)])
    contestant = field.student(field.students[1])
    accuracies = ([1, 0, 1, 1], [1, 1, 1, 1])
    seconds = Gallery  # not asked here
    measured = [
        Measured(
            replace(contestant, seed=seed, source=f"run-{seed}"),
            {"prompt_accuracy": np.array(values, float)},
            [{"shape": bool(value)} for value in values],
            seconds,
        )
        for seed, values in enumerate(accuracies)
    ]
    (row,) = pooled_rows(measured)
    assert (row.source, row.seed, row.steps, row.calls) == ("run-0, run-1", None, 4, 4)
    assert row.metrics["prompt_accuracy"].value == pytest.approx(7 / 8)
    assert row.metrics["prompt_accuracy.shape"].n == 4
    other = replace(measured[1], contestant=replace(contestant, seed=1, settings="others"))
    assert pooled_rows([measured[0], other]) == [], "settings that differ are no two seeds"


def test_the_same_training_twice_is_not_pooled_as_two(runs, tmp_path):
    shutil.copytree(runs / "ct", tmp_path / "copy")
    with pytest.raises(UserError, match="ct and copy have the same settings and the same seed 0"):
        check_distinct(Field.open([str(runs / "ct"), str(tmp_path / "copy")]))


def test_a_run_that_is_not_finished_is_named(runs, tmp_path):
    shutil.copytree(runs / "ct", tmp_path / "all" / "done")
    (tmp_path / "all" / "half").mkdir()
    (tmp_path / "all" / "half" / "config.toml").write_text("")
    with pytest.raises(UserError, match=r"not trained to their end: .*half"):
        Field.open([str(tmp_path / "all")])


def test_a_student_of_five_segments_is_shown_at_its_own_steps(tmp_path):
    config = tiny_config(steps=1)
    method = {"name": "multi-boundary-cd", "num_segments": 5}
    distill_run(replace(config, method=method), tmp_path / "run")
    field = Field.open([str(tmp_path / "run")])
    *_, student = line_up(field, (1, 4))
    assert (student.method, student.steps) == ("multi-boundary-cd", 5)
    assert is_shown(student, field)


def test_runs_of_one_method_with_other_settings_have_columns_of_their_own(runs, tmp_path):
    field = Field.open([str(runs)])
    first = field.student(field.students[0])
    pictures = np.zeros((1, 64, 64, 3), np.uint8)
    columns = {
        replace(first, source="a"): pictures,
        replace(first, source="b", seed=1): pictures,
        replace(first, source="c", settings="others"): pictures,
    }
    save_comparison(tmp_path, PROMPTS[:1], columns)
    assert list(load_comparison(tmp_path).columns) == ["CT, 4 steps", "CT, 4 steps, c"]


def test_beside_an_evaluation_a_comparison_gives_its_pictures(runs, tmp_path):
    compare_sources([str(runs / "ct")], PROMPTS, None, 0, tmp_path / "c")
    compared = load(tmp_path / "c" / "results.json")
    save(replace(compared, protocol="bundled"), tmp_path / "e" / "results.json")
    html = write_report([tmp_path / "e", tmp_path / "c"], tmp_path / "r.html").read_text()
    assert "protocol bundled" in html
    assert "two red rings" in html


def test_students_of_data_alone_are_compared_with_the_unguided_teacher_too(runs, monkeypatch):
    field = Field.open([str(runs)])
    rng = np.random.default_rng(0)
    monkeypatch.setattr(evaluate, "reference", lambda: rng.normal(size=(50, 3)))
    monkeypatch.setattr(evaluate, "picture_features", lambda p: p.reshape(len(p), -1)[:, :3] / 255)
    monkeypatch.setattr(evaluate, "verdicts", lambda p, prompts: [{"shape": bool(x.max() % 2)}
                                                                  for x in p])  # fmt: skip
    made = {
        contestant: Made(
            rng.integers(0, 256, (40, 2, 2, 3), np.uint8), rng.normal(size=(40, 4)), np.ones(1)
        )
        for contestant in line_up(field, (1,))
    }
    rows = [as_row(m) for m in measure(made, [""] * 40, lambda: None)]
    ct, other = (
        next(r for r in rows if (r.method, r.steps) == key)
        for key in (("ct", 1), ("multi-boundary-cd", 4))
    )
    teacher = rows[0].metrics["frechet"].value
    assert ct.metrics["frechet_difference"].value == pytest.approx(
        ct.metrics["frechet"].value - teacher
    )
    assert "same_noise_rmse_unguided" in ct.metrics
    assert "prompt_accuracy_difference_unguided" in ct.metrics
    assert not [name for name in other.metrics if name.endswith("unguided")]


def test_seconds_have_an_interval_only_where_there_are_batches_enough(tmp_path):
    pictures = np.zeros((300, 2, 2, 3), np.uint8)
    few = Made(pictures, np.zeros((300, 4)), np.array([1.0, 3.0])).seconds_per_image
    assert (few.value, few.low, few.high, few.n) == (2.0, 2.0, 2.0, 300)
    many = Made(pictures, np.zeros((300, 4)), np.array([1.0, 2.0, 3.0, 2.0, 2.0])).seconds_per_image
    assert many.high - many.value == pytest.approx(2.776 * 0.5**0.5 / 5**0.5, rel=2e-3)


def test_nothing_to_report_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"holds neither results.json nor a run's config.toml"):
        write_report([tmp_path], tmp_path / "report.html")


def test_an_evaluation_ends_with_its_table_and_the_speed_up(tmp_path, capsys):
    rows = tuple(
        Row(method, method, steps, calls, None, {
            "seconds_per_image": Interval(seconds, seconds, seconds, 100)})
        for method, steps, calls, seconds in (("teacher", 50, 100, 1.0), ("cd", 4, 4, 0.05))
    )  # fmt: skip
    save(Results("bundled", "c", "d", "m", rows), tmp_path / "results.json")
    evaluate.print_results(tmp_path / "results.json")
    told = " ".join(capsys.readouterr().out.split())
    assert "protocol bundled" in told
    assert "CD at 4 steps makes a picture 20.0 times as fast as the teacher at 50." in told

"""Students and their teacher are generated from the same noises, once, and put side by side."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from fewstep.config import ModelSettings
from fewstep.console import finish
from fewstep.errors import UserError
from fewstep.evaluation.compare import compare_sources, titled
from fewstep.evaluation.comparison import COMPARISON_FILE, load_comparison, save_comparison
from fewstep.evaluation.models import EvaluationSet
from fewstep.evaluation.report.write import write_report
from fewstep.evaluation.results import load, save
from fewstep.evaluation.samples import SampleCache, Samples, generate_images
from fewstep.evaluation.timing import costs_in_turns
from fewstep.student.generate import ImageSampler
from fewstep.student.pipeline import FewStepPipeline
from fewstep.training.distill import distill_run
from tests.tiny import save_tiny_pipeline, tiny_config

PROMPTS = ["a star", "two red rings", "a heart"]
NOISE_OF_THE_THIRD_PROMPT = [-0.830207, 0.962372, 1.369114]


def test_a_folder_of_runs_stands_for_its_runs(runs):
    assert [student.source for student in EvaluationSet.open([str(runs)]).students] == [
        "ct",
        "multi-boundary-cd",
    ]


def generated(model, folder, prompts=PROMPTS, seed=0):
    samples = SampleCache([model], folder, prompts, 64, seed)
    finish(generate_images(samples, samples.batches))
    return Samples(
        samples.all_images(model),
        np.concatenate([samples.read(model, numbers).latents for numbers in samples.batches]),
    )


def test_images_are_generated_once_and_do_not_depend_on_how_many_are_asked(runs, tmp_path):
    evaluation = EvaluationSet.open([str(runs)])
    model = evaluation.student(evaluation.students[1])
    made = generated(model, tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert len(files) == len(PROMPTS) + 1
    again = generated(replace(model, sampler=None), tmp_path)
    assert np.array_equal(made.images, again.images)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == files
    fewer = generated(model, tmp_path / "fewer", PROMPTS[:2])
    assert np.abs(fewer.latents - made.latents[:2]).max() < 1e-4
    other = generated(model, tmp_path / "other", seed=1)
    assert not np.array_equal(made.images, other.images)


def test_a_comparisons_second_image_is_made_again_by_the_next_seed(runs, tmp_path):
    compare_sources([str(runs / "ct")], PROMPTS, None, 7, tmp_path)
    column = load_comparison(tmp_path).columns["CT, 4 steps"]
    (alone,) = FewStepPipeline.from_pretrained(runs / "ct")(PROMPTS[1], seed=8).images
    assert np.abs(np.asarray(alone, np.int16) - column[1]).max() <= 1


def test_the_noise_of_an_evaluation_is_that_of_the_committed_results(tmp_path):
    """A function of (seed, the prompt's number), whatever the batch."""
    (third,) = SampleCache([], tmp_path, PROMPTS, 64).generators(range(2, 3))
    expected = torch.tensor(NOISE_OF_THE_THIRD_PROMPT)
    torch.testing.assert_close(torch.randn(3, generator=third), expected, rtol=0, atol=1e-6)


def test_images_of_other_prompts_take_the_place_of_those_before(runs, tmp_path):
    evaluation = EvaluationSet.open([str(runs)])
    model = evaluation.student(evaluation.students[1])
    before = generated(model, tmp_path)
    reverse = PROMPTS[::-1]
    missing = SampleCache([model], tmp_path, reverse, 64).missing()
    assert missing == (len(PROMPTS), model.nfe * len(PROMPTS))
    assert not np.array_equal(generated(model, tmp_path, reverse).images, before.images)
    again = generated(model, tmp_path)
    assert np.array_equal(again.images, before.images)


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
    compared = ["same_noise_rmse" in row.metrics for row in rows]
    assert compared == [False, True, False, True], "not the teacher itself, nor under fresh noise"
    html = write_report([tmp_path, runs / "ct"], tmp_path / "report.html").read_text()
    assert "two red rings" in html

    images = tmp_path / COMPARISON_FILE
    images.write_bytes(images.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"comparison\.safetensors is damaged"):
        load_comparison(tmp_path)


def test_students_of_different_guidance_are_not_compared(runs, tmp_path):
    config = tiny_config("cd", steps=1)
    distill_run(
        replace(config, teacher=replace(config.teacher, guidance_scale=2.0)), tmp_path / "g"
    )
    with pytest.raises(UserError, match=r"differ in their guidance scale \(.*2.0"):
        EvaluationSet.open([str(runs), str(tmp_path / "g")])


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"beta_end": 0.013}, "noise schedule"), ({"prediction_type": "sample"}, "prediction_type")],
)
def test_students_whose_networks_agree_but_not_their_noise_are_not_compared(
    runs, tmp_path, changes, told
):
    base = save_tiny_pipeline(tmp_path / "base", **changes)
    config = tiny_config("ct", steps=1)
    distill_run(replace(config, model=ModelSettings(base=str(base))), tmp_path / "other")
    with pytest.raises(UserError, match=f"these students differ in their {told}"):
        EvaluationSet.open([str(runs / "ct"), str(tmp_path / "other")])


def test_a_run_that_is_not_finished_is_named(runs, tmp_path):
    shutil.copytree(runs / "ct", tmp_path / "all" / "done")
    (tmp_path / "all" / "half").mkdir()
    (tmp_path / "all" / "half" / "config.toml").write_text("")
    with pytest.raises(UserError, match=r"not trained to their end: .*half"):
        EvaluationSet.open([str(tmp_path / "all")])


def test_runs_of_one_method_with_other_settings_have_columns_of_their_own(runs, tmp_path):
    evaluation = EvaluationSet.open([str(runs)])
    first = evaluation.student(evaluation.students[0])
    images = np.zeros((1, 64, 64, 3), np.uint8)
    columns = {
        replace(first, source="a"): images,
        replace(first, source="b", seed=1): images,
        replace(first, source="c", settings="others"): images,
    }
    save_comparison(tmp_path, PROMPTS[:1], titled(columns))
    assert list(load_comparison(tmp_path).columns) == ["CT, 4 steps", "CT, 4 steps, c"]


def test_beside_an_evaluation_a_comparison_gives_its_images(runs, tmp_path):
    compare_sources([str(runs / "ct")], PROMPTS, None, 0, tmp_path / "c")
    compared = load(tmp_path / "c" / "results.json")
    save(replace(compared, protocol="bundled"), tmp_path / "e" / "results.json")
    html = write_report([tmp_path / "e", tmp_path / "c"], tmp_path / "r.html").read_text()
    assert "protocol bundled" in html
    assert "two red rings" in html


def test_costs_are_taken_in_turns_and_kept_for_those_who_took_them(runs, tmp_path, monkeypatch):
    evaluation = EvaluationSet.open([str(runs / "ct")])
    models = [evaluation.teacher(4), evaluation.student(evaluation.students[0])]
    asked = []

    class Told(ImageSampler):
        def latents(self, prompts, *args, **kwargs):
            asked.append((self.nfe, *prompts))
            return super().latents(prompts, *args, **kwargs)

    def told(model):
        sampler = model.sampler()
        return replace(model, sampler=lambda: Told(**vars(sampler)))

    def costs(models, prompts):
        samples = SampleCache([told(model) for model in models], tmp_path, prompts, 64)
        return finish(costs_in_turns(samples))

    few = costs(models, PROMPTS[:2])
    assert [who for who in asked if who[1]] == [
        (calls, prompt) for prompt in PROMPTS[:2] for calls in (8, 4)
    ]
    seconds = few[models[0]]["seconds_per_image"]
    assert seconds.value > 0
    assert seconds.ends is None, "two times are too few"
    many = costs(models, [f"a star {i}" for i in range(9)])
    assert many[models[1]]["seconds_per_image"].n == 5
    asked.clear()
    assert costs(models, PROMPTS[:2]) == few
    assert not asked
    costs(models[:1], PROMPTS[:2])
    assert asked, "another comparison is timed anew"


def test_nothing_to_report_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"holds neither results.json nor a run's config.toml"):
        write_report([tmp_path], tmp_path / "report.html")

"""Evaluation: by a protocol, batch by batch, shared by processes, from what is on disk."""

import hashlib
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

from fewstep.config import ModelSettings
from fewstep.console import finish
from fewstep.errors import UserError
from fewstep.evaluation import consistency, evaluate
from fewstep.evaluation import prompts as prompts_module
from fewstep.evaluation import samples as samples_module
from fewstep.evaluation.diversity import images_of_prompts
from fewstep.evaluation.evaluate import evaluate_sources
from fewstep.evaluation.extraction import FeatureExtraction
from fewstep.evaluation.inception import Inception
from fewstep.evaluation.intervals import Interval
from fewstep.evaluation.labels import shown
from fewstep.evaluation.measure import Measurement, choose_metrics, rows
from fewstep.evaluation.metrics import METRICS
from fewstep.evaluation.metrics.frechet import checked
from fewstep.evaluation.models import EvaluationSet
from fewstep.evaluation.prompts import (
    PROMPT_SEED,
    EvaluationInputs,
    Reference,
    held_out_prompts,
    load_inputs,
)
from fewstep.evaluation.protocols import PROTOCOLS
from fewstep.evaluation.results import Results, Row, load, save
from fewstep.evaluation.samples import SampleCache, Samples, generate_images
from fewstep.evaluation.weights import CLIP_SHA256, INCEPTION
from fewstep.files import NotWrittenError
from fewstep.student.generate import ImageSampler
from fewstep.training.distill import distill_run
from fewstep.world.scenes import render, sample_scene
from tests.artefacts import tiny_artefact
from tests.disk import room_for
from tests.extractors import save_clip, save_inception
from tests.tiny import tiny_config
from tests.together import run_together

PROMPTS = ["a star", "two red rings", "a heart"]


@pytest.fixture
def prompt_file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS))
    return path


@pytest.fixture
def no_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "no-weights"


@pytest.fixture
def extractor_weights(tmp_path, monkeypatch):
    """A folder with every extractor's architecture, small or with random weights."""
    folder = tmp_path / "weights"
    folder.mkdir()
    file = save_inception(folder)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setitem(INCEPTION.sha256, file.name, digest)
    for name in CLIP_SHA256:
        digest = hashlib.sha256(save_clip(folder / name).read_bytes()).hexdigest()
        monkeypatch.setitem(CLIP_SHA256[name], "model.safetensors", digest)
    for name, metric in METRICS.items():
        monkeypatch.setitem(METRICS, name, replace(metric, smallest_n=2))
    return folder


def test_any_model_is_measured_without_weights_and_says_what_is_missing(
    runs, tmp_path, prompt_file, no_weights, monkeypatch, capsys
):
    monkeypatch.setattr(samples_module, "BATCH", 2)
    out = tmp_path / "out"

    def run():
        return evaluate_sources([str(runs)], "prompts", out, student_steps=(1,),
                                prompt_file=prompt_file, weights=no_weights)  # fmt: skip

    results = load(run())
    by_name = {(row.method, row.calls): row.metrics for row in results.rows}
    student = by_name["multi-boundary-cd", 4]
    assert {"same_noise_rmse", "latent_std_ratio", "self_consistency"} <= student.keys()
    assert student["same_noise_rmse"].n == len(PROMPTS)
    assert student["self_consistency"].value > 0
    assert "step_agreement" in by_name["ct", 1]
    assert not {"step_agreement", "latent_std_ratio"} & by_name["ct", 4].keys()
    assert "same_noise_rmse" not in by_name["ct", 4], "fresh noise leaves nothing to compare"
    assert "same_noise_rmse_unguided" in by_name["ct", 1]
    assert "same_noise_rmse" not in by_name["teacher", 100]
    assert "needs 100 prompts or more, not 3" in results.unavailable["latent_frechet"]
    assert "clip-vit-large-patch14" in results.unavailable["clip_score"]
    assert re.search(r"3 prompts of the user's \([0-9a-f]{8}\); 64 px; tea", results.protocol)

    evaluate.print_results(out / "results.json")
    printed = " ".join(capsys.readouterr().out.split())
    assert "CLIP score: unavailable, needs clip-vit" in printed
    calls = len(PROMPTS) * sum(row.calls for row in results.rows)
    images = len(PROMPTS) * len(results.rows)
    assert f"{images} images generated, {calls} NFE: " in printed

    monkeypatch.setattr(ImageSampler, "latents", None)  # nothing is left to generate, or to time
    monkeypatch.setattr("fewstep.evaluation.consistency.measured", None)
    again = load(run())
    assert again.rows == results.rows
    assert again.cost.startswith("0 images generated, 0 NFE: ")

    monkeypatch.setattr(Measurement, "of_sets", lambda *args: checked(np.full((3, 2), np.nan)))
    with pytest.raises(UserError, match=r"guidance 4 in 50 steps cannot be measured: 3 of 3 image"):
        run()


def test_a_student_whose_latents_are_not_finite_is_named_and_nothing_of_it_kept(runs, tmp_path):
    evaluation = EvaluationSet.open([str(runs / "ct")])
    student = evaluation.students[0]
    weights = {name: torch.full_like(w, torch.nan) for name, w in student.weights.items()}
    model = evaluation.student(replace(student, weights=weights))
    samples = SampleCache([model], tmp_path, PROMPTS, 64)
    with pytest.raises(UserError, match=r"^ct in 4 steps cannot be generated: .*not finite"):
        finish(generate_images(samples, samples.batches))
    assert not list(tmp_path.iterdir())


def test_an_image_without_room_leaves_no_part_of_it(runs, tmp_path):
    evaluation = EvaluationSet.open([str(runs / "ct")])
    model = evaluation.student(evaluation.students[0])
    cache = SampleCache([model], tmp_path, PROMPTS, 64)
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    with room_for(100), pytest.raises(NotWrittenError, match=r"000000.png was not written"):
        cache.write(model, range(3), Samples(noise, np.zeros((3, 4, 8, 8), np.float32)))
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_processes_share_the_batches_and_the_images_are_those_of_one(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(samples_module, "BATCH", 1)
    evaluation = EvaluationSet.open([str(runs / "multi-boundary-cd")])
    model = evaluation.student(evaluation.students[0])

    def generated(folder, shares):
        samples = SampleCache([model], folder, PROMPTS, 64)
        for share in shares:
            finish(generate_images(samples, samples.batches[share]))
        return {path.name: path.read_bytes() for path in samples.model_folder(model).glob("*.png")}

    one = generated(tmp_path / "one", [slice(None)])
    two = generated(tmp_path / "two", [slice(1, None, 2), slice(0, None, 2)])
    assert len(one) == 3
    assert one.keys() == two.keys()
    assert one == two


def evaluated(rank, source, out, prompt_file, weights):
    samples_module.BATCH = 1
    evaluate_sources([source], "prompts", out, prompt_file=prompt_file, weights=weights)


@pytest.mark.slow
def test_several_processes_evaluate_together(runs, tmp_path, prompt_file, no_weights):
    told = (str(runs / "multi-boundary-cd"), tmp_path / "out", prompt_file, no_weights)
    assert run_together(2, evaluated, *told) == [0, 0]
    results = load(tmp_path / "out" / "results.json")
    assert [row.steps for row in results.rows] == [50, 8, 4, 50, 8, 4, 4]


def test_bad_requests_are_refused_before_any_work(runs, tmp_path, prompt_file):
    asked = [str(runs)]
    with pytest.raises(UserError, match="use --protocol prompts, or fewstep compare"):
        evaluate_sources(asked, "bundled", tmp_path, 200)
    with pytest.raises(UserError, match="unknown protocol 'coco'; known: bundled, coco2017-5k"):
        evaluate_sources(asked, "coco", tmp_path)
    with pytest.raises(UserError, match="needs --prompts FILE"):
        evaluate_sources(asked, "prompts", tmp_path)
    with pytest.raises(UserError, match=r"--num-prompts is 9, and .* holds 3 prompts"):
        evaluate_sources(asked, "prompts", tmp_path, 9, prompt_file=prompt_file)
    for num in (-5, 0, 1):
        with pytest.raises(UserError, match=f"is {num}; a mean over images needs 2 or more"):
            evaluate_sources(asked, "prompts", tmp_path, num, prompt_file=prompt_file)
    with pytest.raises(UserError, match="takes no --prompts"):
        evaluate_sources(asked, "bundled", tmp_path, prompt_file=prompt_file)
    with pytest.raises(UserError, match="takes no --data"):
        evaluate_sources(asked, "prompts", tmp_path, prompt_file=prompt_file, data=tmp_path)
    with pytest.raises(UserError, match="needs --data FOLDER with COCO's annotations"):
        evaluate_sources(asked, "coco2017-5k", tmp_path)
    with pytest.raises(UserError, match=r"has no annotations/captions_val2017\.json"):
        evaluate_sources(asked, "coco2017-5k", tmp_path, data=tmp_path)
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize("num", [2, 20])
def test_too_few_prompts_for_a_protocols_metric_are_refused(num):
    inputs = load_inputs("bundled", 64, num)
    with pytest.raises(UserError, match=f"--num-prompts is {num}; .* needs 100 or more"):
        choose_metrics(inputs, num, {})


def coco_folder(folder, num=6):
    from PIL import Image

    (folder / "annotations").mkdir()
    (folder / "val2017").mkdir()
    images = [{"id": i, "file_name": f"{i:012d}.jpg"} for i in range(num)]
    notes = [{"image_id": i, "id": 2 * i + k, "caption": f"image {i}, caption {k}"}
             for i in range(num) for k in range(2)]  # fmt: skip
    for image in images:
        Image.new("RGB", (40, 30), (image["id"] * 9, 0, 0)).save(
            folder / "val2017" / image["file_name"]
        )
    about = {"images": images, "annotations": notes}
    (folder / "annotations" / "captions_val2017.json").write_text(json.dumps(about))
    return folder


def test_coco_gives_first_captions_and_the_middles_of_its_images(tmp_path):
    inputs = load_inputs("coco2017-5k", 16, 4, data=coco_folder(tmp_path))
    assert inputs.prompts == [f"image {i}, caption 0" for i in range(4)]
    (real,) = inputs.reference.batches()
    assert real.shape == (6, 16, 16, 3)
    assert abs(int(real[5, 8, 8, 0]) - 45) < 6
    other = load_inputs("coco2017-5k", 24, 4, data=tmp_path).reference.identity
    assert inputs.reference.identity != other


def test_a_protocol_that_draws_takes_its_prompts_from_all_captions(tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "mine", replace(PROTOCOLS["coco2017-5k"], draws=True))
    prompts = load_inputs("mine", 16, 8, data=coco_folder(tmp_path)).prompts
    assert len(set(prompts)) == 8, "of 12 captions of 6 images"
    assert {text.rsplit(" ", 1)[1] for text in prompts} == {"0", "1"}
    assert prompts == load_inputs("mine", 16, 8, data=tmp_path).prompts
    assert PROTOCOLS["coco2014-30k-256"].draws


def test_a_broken_reference_image_is_named_before_anything_is_generated(
    runs, tmp_path, extractor_weights
):
    folder = coco_folder(tmp_path)
    (folder / "val2017" / "000000000004.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"reference image .*000000000004\.jpg cannot be read"):
        evaluate_sources([str(runs / "ct")], "coco2017-5k", tmp_path / "out", 4, data=folder,
                         weights=extractor_weights)  # fmt: skip
    assert not list((tmp_path / "out").glob("images/*"))


def test_coco_is_evaluated_with_every_extractor_available(
    runs, tmp_path, extractor_weights, monkeypatch
):
    out = tmp_path / "out"
    results = load(
        evaluate_sources([str(runs / "multi-boundary-cd")], "coco2017-5k", out, 4,
                         student_steps=(4,), data=coco_folder(tmp_path), weights=extractor_weights)
    )  # fmt: skip
    assert not results.unavailable
    assert re.fullmatch(
        r"coco2017-5k; 4 first captions of COCO val2017 \([0-9a-f]{8}\); reference: all 6 "
        r"images, the middle square at the model's side \(Lanczos\); 64 px; teacher's guidance "
        r"[\d.]+; .*Inception.*; .*CLIP.*",
        results.protocol,
    )
    teacher, student = results.rows[0].metrics, results.rows[-1].metrics
    expected = {"fid", "kid", "cmmd", "precision", "recall", "clip_score"}
    assert expected <= teacher.keys() & student.keys()
    assert {"fid_teacher", "clip_score_difference", "latent_frechet"} <= student.keys()
    assert "fid_teacher" not in teacher
    assert student["clip_score_difference"].value == pytest.approx(
        student["clip_score"].value - teacher["clip_score"].value
    )
    asked = [Inception, CLIPVisionModelWithProjection, CLIPTextModelWithProjection]
    for network in asked:  # all is kept: a second evaluation asks none of them
        monkeypatch.setattr(network, "forward", None)
    asked = [str(runs / "multi-boundary-cd")]
    again = load(evaluate_sources(asked, "coco2017-5k", out, 4, student_steps=(4,),
                                  data=tmp_path, weights=extractor_weights))  # fmt: skip
    assert again.rows == results.rows


def store(samples, rng):
    """Write images and latents as if they had been generated."""
    side = samples.resolution
    for model in samples.models:
        for numbers in samples.batches:
            images = rng.integers(0, 256, (len(numbers), side, side, 3), np.uint8)
            latents = rng.normal(size=(len(numbers), 4, 16, 16)).astype(np.float32)
            samples.write(model, numbers, Samples(images, latents))


class FirstPixels:
    """An extractor whose features are the first three numbers of an image."""

    def of(self, images):
        return images.reshape(len(images), -1)[:, :3].astype(np.float32)

    def of_set(self, identity, batches):
        return np.concatenate([self.of(batch) for batch in batches()])


def test_numbers_are_paired_with_the_teachers_and_those_of_data_with_the_unguided_ones(
    runs, tmp_path, monkeypatch
):
    rng = np.random.default_rng(0)
    evaluation = EvaluationSet.open([str(runs)], (1,))
    prompts = [f"a star {i}" for i in range(120)]
    samples = SampleCache(evaluation.models, tmp_path / "images", prompts, 8)
    store(samples, rng)
    real = Reference("r", "", lambda: iter([rng.integers(0, 256, (200, 8, 8, 3), np.uint8)]))
    inputs = EvaluationInputs("bundled", PROTOCOLS["bundled"], samples.prompts, real)
    extraction = FeatureExtraction(
        samples.prompts, tmp_path / "features", {"bundled": FirstPixels()}, {}, []
    )
    monkeypatch.setattr(
        "fewstep.evaluation.extraction.verdicts",
        lambda images, prompts: [{"shape": bool(p.max() % 2)} for p in images],
    )
    chosen = choose_metrics(inputs, 120, {})
    measurement = Measurement(inputs, samples, extraction, *chosen).with_targets()
    table = finish(measurement.measure())
    costs = {model: {"peak_memory": Interval(3e9, 3e9, 3e9, 5)} for model in samples.models}
    by_name = {(r.method, r.steps, r.calls): r.metrics for r in rows(table, costs)}
    teacher, ct = by_name["teacher", 50, 100], by_name["ct", 1, 1]
    assert ct["frechet_difference"].value == pytest.approx(
        ct["frechet"].value - teacher["frechet"].value
    )
    assert ct["latent_frechet"].value > 0
    assert "latent_frechet" not in teacher, "its distance to itself"
    assert ct["peak_memory"].value == 3e9
    assert ct["step_agreement"].n == 120
    assert "step_agreement" not in by_name["ct", 4, 4]
    assert "same_noise_rmse_unguided" in ct
    assert not [n for n in by_name["multi-boundary-cd", 4, 4] if n.endswith("unguided")]
    first, fifth = evaluation.models[0], evaluation.models[4]
    own, true = (samples.read(m, range(50, 100)).latents.astype(float) for m in (fifth, first))
    expected = np.sqrt(((own - true) ** 2).reshape(50, -1).mean(1))
    assert np.allclose(table[fifth]["latent_rmse"][50:100], expected)


def test_the_bundled_protocol_measures_by_the_parser_and_by_features(tmp_path, monkeypatch):
    monkeypatch.setattr(prompts_module, "NUM_REFERENCES", 100)
    monkeypatch.setattr(consistency, "NUM_PROMPTS", 2)
    run, out = tmp_path / "run", tmp_path / "out"
    distill_run(replace(tiny_config(steps=1), model=ModelSettings()), run)
    evaluation = EvaluationSet.open([str(run)])
    prompts, resolution = held_out_prompts(100), evaluation.resolution
    samples = SampleCache(evaluation.models, out / "images", prompts, resolution)
    rngs = (np.random.default_rng([PROMPT_SEED, i]) for i in range(100))
    right = np.stack([render(sample_scene(rng)) for rng in rngs])
    store(samples, np.random.default_rng(0))
    for model in (evaluation.teacher(), evaluation.student(evaluation.students[0])):
        shown = right if model.method == "teacher" else np.roll(right, 1, 0)
        for numbers in samples.batches:
            latents = samples.read(model, numbers).latents
            samples.write(model, numbers, Samples(shown[numbers.start : numbers.stop], latents))

    inputs = load_inputs("bundled", 64, 100)
    repeated = images_of_prompts(evaluation.in_own_steps, out, inputs, 64)
    assert repeated.prompts[::8] == inputs.prompts[:4]
    store(repeated, np.random.default_rng(1))
    numbers, student = repeated.batches[0], evaluation.student(evaluation.students[0])
    stored = repeated.read(student, numbers)  # of every prompt the same image eight times
    repeated.write(student, numbers, Samples(np.repeat(right[:4], 8, 0), stored.latents))

    rows = load(evaluate_sources([str(run)], "bundled", out, 100)).rows
    teacher, student = rows[0].metrics, rows[-1].metrics
    assert teacher["prompt_accuracy"].value > 0.9
    assert student["prompt_accuracy"].value < 0.5
    assert student["prompt_accuracy_difference"].value == pytest.approx(
        student["prompt_accuracy"].value - teacher["prompt_accuracy"].value
    )
    assert student["frechet"].value == pytest.approx(teacher["frechet"].value, rel=1e-4)
    assert rows[1].metrics["frechet"].value > 2 * teacher["frechet"].value
    assert "prompt_accuracy.shape" in student
    assert student["self_consistency"].n == 2
    assert student["frechet_ratio"].value == pytest.approx(1, rel=1e-4)
    assert student["bundled_recall_ratio"].value == pytest.approx(1)
    assert student["bundled_recall"].n == 100
    assert teacher["diversity"].value > 0
    assert teacher["diversity"].n == 4
    assert student["diversity"].value == student["diversity_ratio"].value == 0


def test_a_brief_evaluation_has_the_teacher_in_its_full_steps_alone(runs):
    of = {name: EvaluationSet.open([str(runs / name)], (4,), brief=True).models
          for name in ("ct", "multi-boundary-cd")}  # fmt: skip
    shown = {name: [(m.method, m.steps, m.nfe) for m in models] for name, models in of.items()}
    assert shown["multi-boundary-cd"] == [("teacher", 50, 100), ("multi-boundary-cd", 4, 4)]
    assert shown["ct"] == [("teacher", 50, 100), ("teacher", 50, 50), ("ct", 4, 4)]


def test_several_trainings_of_a_method_are_pooled_into_one_row(runs):
    evaluation = EvaluationSet.open([str(runs)])
    model = evaluation.student(evaluation.students[1])
    accuracies = np.array([[1, 0, 1, 1], [1, 1, 1, 1]], float)
    table = {
        replace(model, seed=seed, source=f"run-{seed}"): {
            "prompt_accuracy": values,
            "prompt_accuracy.shape": values,
        }
        for seed, values in enumerate(accuracies)
    }
    costs = {model: {"seconds_per_image": Interval(1.0, 1.0, 1.0, 4)} for model in table}
    *single, row = rows(table, costs)
    assert [one.seed for one in single] == [0, 1]
    assert (row.source, row.seed, row.steps, row.calls) == ("run-0, run-1", None, 4, 4)
    assert row.metrics["prompt_accuracy"].value == pytest.approx(7 / 8)
    assert row.metrics["prompt_accuracy.shape"].n == 4
    assert row.metrics["seconds_per_image"].value == 1
    first, second = table
    others = {first: table[first], replace(second, settings="others"): table[second]}
    assert len(rows(others, costs)) == 2, "settings that differ are no two seeds"


def test_the_same_training_twice_is_not_pooled_as_two(runs, tmp_path):
    shutil.copytree(runs / "ct", tmp_path / "copy")
    with pytest.raises(UserError, match="ct and copy have the same settings and the same seed 0"):
        EvaluationSet.open([str(runs / "ct"), str(tmp_path / "copy")]).check_distinct()


def test_images_are_kept_where_only_an_artefacts_page_or_its_versions_are_new(runs):
    evaluation = EvaluationSet.open([str(runs / "ct")])
    (student,) = evaluation.students
    rewritten = replace(student.contract, versions={"torch": "9"}, files={"README.md": "0" * 64})
    new = replace(student, contract=rewritten)
    assert evaluation.student(new).identity == evaluation.student(student).identity
    other = replace(new, weights={name: 2 * w for name, w in student.weights.items()})
    assert evaluation.student(other).identity != evaluation.student(student).identity


def test_a_run_that_is_named_twice_takes_part_once(runs):
    ct = str(runs / "ct")
    evaluation = EvaluationSet.open([ct, str(runs), f"{ct}/../ct"])
    assert len(evaluation.students) == len({student.digest for student in evaluation.students}) > 1


def test_the_teacher_takes_few_steps_at_its_students_timesteps_too(tmp_path):
    even = EvaluationSet.open([str(tiny_artefact(tmp_path / "even"))])
    own = EvaluationSet.open([str(tiny_artefact(tmp_path / "own", spacing="quadratic"))])
    teachers = [[c for c in f.models if c.method == "teacher"] for f in (even, own)]
    assert [t.steps for t in teachers[0]] == [50, 8, 4, 50, 8, 4]
    assert teachers[0] == [t for t in teachers[1] if "quadratic" not in t.source]
    further = [t for t in teachers[1] if "quadratic" in t.source]
    assert [t.sampler().timesteps[-1] for t in further] == [15, 61]
    assert further[1].sampler().timesteps == own.student(own.students[0]).sampler().timesteps
    assert further[1] in own.side_by_side()
    assert len({t.identity for t in teachers[1]}) == 8


def test_a_student_of_five_segments_is_shown_at_its_own_steps(tmp_path):
    config = tiny_config(steps=1)
    method = {"name": "multi-boundary-cd", "num_segments": 5}
    distill_run(replace(config, method=method), tmp_path / "run")
    evaluation = EvaluationSet.open([str(tmp_path / "run")])
    *_, student = evaluation.models
    assert (student.method, student.steps) == ("multi-boundary-cd", 5)
    assert student in evaluation.side_by_side()


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
    assert "CD at 4 steps makes an image 20.0 times as fast as the teacher at 50; how near" in told


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("same_noise_rmse", "from the same noise its images are {} from the teacher’s (root mean "
         "square; black to white is 1), where the teacher’s own in 4 steps are at {}."),
        ("latent_frechet", "its images’ latents are at a Fréchet distance of {} from the "
         "teacher’s, where the teacher’s own in 4 steps are at {}."),
    ],
)  # fmt: skip
def test_without_weights_one_sentence_says_how_near_the_teacher_and_how_fast(
    tmp_path, capsys, metric, words
):
    """Of a teacher in as few steps at several timesteps the nearest is beside the student."""
    figures = [("teacher", 50, 100, 1.0, None), ("teacher", 4, 8, 0.1, 0.3),
               ("teacher", 4, 8, 0.1, 0.2), ("teacher", 4, 4, 0.05, 0.1),
               ("multi-boundary-cd", 4, 4, 0.05, 0.05)]  # fmt: skip
    rows = tuple(
        Row(f"source {i}", method, steps, nfe, None, {
            "seconds_per_image": Interval(seconds, seconds, seconds, 100)}
            | ({metric: Interval(off, off, off, 100)} if off else {}))
        for i, (method, steps, nfe, seconds, off) in enumerate(figures)
    )  # fmt: skip
    save(Results("prompts", "c", "d", "m", rows), tmp_path / "results.json")
    evaluate.print_results(tmp_path / "results.json")
    told = " ".join(capsys.readouterr().out.split())
    speed = "Multi-boundary CD at 4 steps makes an image 20.0 times as fast as the teacher at 50"
    assert f"{speed}, and {words.format(*(shown(metric, n) for n in (0.05, 0.2)))}" in told

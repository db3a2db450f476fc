"""Prompt accuracy and same-noise distance, on images whose answers are known."""

import numpy as np
import pytest

from fewstep.evaluation.metrics import METRICS
from fewstep.evaluation.metrics.pairs import rmse, same_noise_rmse
from fewstep.evaluation.metrics.prompt_accuracy import all_right, by_attribute, verdicts
from fewstep.world.captions import describe
from fewstep.world.scenes import Scene, Thing, render, sample_scene


def drawn(*things: tuple[str, str], background: str = "white") -> np.ndarray:
    placed = [
        Thing(shape, colour, "big", 16.0 + 32 * i, 32.0, 11.5, 0.0)
        for i, (shape, colour) in enumerate(things)
    ]
    return render(Scene(tuple(placed), background, light=1.0, depth=0.8))


def test_an_image_is_judged_by_each_thing_that_its_caption_says():
    images = np.stack([drawn(("circle", "red"), ("square", "blue")), drawn(("square", "green"))])
    captions = ["a red circle to the left of a blue square on a white background", "a red square"]
    first, second = verdicts(images, captions)
    assert first == dict.fromkeys(("shape", "colour", "relation", "background"), True)
    assert second == {"shape": True, "colour": False}
    assert all_right([first, second]).tolist() == [1.0, 0.0]


def test_true_captions_are_nearly_always_right_and_shuffled_ones_are_not():
    rng = np.random.default_rng(5)
    scenes = [sample_scene(rng) for _ in range(60)]
    images, captions = [render(s) for s in scenes], [describe(s, rng) for s in scenes]
    accuracy = METRICS["prompt_accuracy"]
    right = accuracy.measure(verdicts(images, captions))
    wrong = accuracy.measure(verdicts(images, captions[1:] + captions[:1]))
    assert right.value >= 0.95
    assert wrong.value <= 0.4
    assert right.n == 60


def test_an_attributes_accuracy_counts_only_the_captions_that_claim_it():
    checked = [{"shape": True}, {"shape": False, "count": True}, {"shape": True}]
    parts = by_attribute(checked)
    assert set(parts) == {"shape"}  # a count is claimed once only: too few for an interval
    assert parts["shape"].tolist() == [1, 0, 1]


def test_captions_and_images_must_be_as_many():
    with pytest.raises(ValueError, match="1 images but 2 captions"):
        verdicts(drawn(("circle", "red"))[None], ["a red circle", "a red circle"])


def test_black_is_at_distance_one_from_white_and_nothing_from_itself():
    black, white = np.zeros((3, 8, 8, 3), np.uint8), np.full((3, 8, 8, 3), 255, np.uint8)
    assert same_noise_rmse(black, white).tolist() == [1.0] * 3
    assert same_noise_rmse(white, white).tolist() == [0.0] * 3


def test_each_pair_of_latents_has_its_own_distance():
    ours = np.zeros((2, 4, 3, 3))
    theirs = np.stack([np.full((4, 3, 3), 2.0), np.zeros((4, 3, 3))])
    assert rmse(ours, theirs).tolist() == [2.0, 0.0]


def test_images_of_another_kind_or_number_are_refused():
    black = np.zeros((3, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="uint8"):
        same_noise_rmse(black / 255, black)
    with pytest.raises(ValueError, match="cannot be compared in pairs"):
        same_noise_rmse(black, black[:2])


def test_a_metric_refuses_fewer_images_than_it_means_something_at():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="Fréchet distance needs 100 images or more, not 20"):
        METRICS["frechet"].measure(rng.normal(size=(20, 4)), rng.normal(size=(200, 4)))


def test_the_difference_to_the_teacher_is_paired():
    interval = METRICS["prompt_accuracy_difference"].measure(
        np.array([1.0, 1, 0, 1]), np.array([1.0, 0, 0, 1])
    )
    assert interval.value == 0.25

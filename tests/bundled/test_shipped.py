"""The weights that are shipped: whole, small, and the same pictures in stock diffusers."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from fewstep.bundled.features import features_folder, load_feature_network
from fewstep.bundled.scenes import render, sample_scene
from fewstep.bundled.teacher import teacher_folder
from fewstep.diffusion.random import Draw
from fewstep.errors import UserError
from fewstep.evaluation.frechet import Gaussian, distance
from fewstep.models.loading import load_model
from fewstep.run.paint import check_words
from fewstep.sampling.pipeline import teacher_painter

PROMPTS = ["a red heart above a blue star", "two green rings"]


def megabytes(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def test_the_weights_are_small_enough_to_ship():
    assert 2 < megabytes(teacher_folder()) < 20
    assert megabytes(features_folder()) < 2


def test_no_file_names_a_path_of_the_machine_that_made_it():
    texts = [file.read_text() for file in teacher_folder().rglob("*.json")]
    assert len(texts) > 4
    assert not any("_name_or_path" in text for text in texts)


def test_stock_diffusers_paints_the_shipped_teachers_pictures():
    family = load_model("bundled")
    painter = teacher_painter(family, 8, 4.0)
    ours = painter.decode(painter.latents(PROMPTS, seed=3, resolution=64)).numpy()
    pipe = StableDiffusionPipeline.from_pretrained(teacher_folder())
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=0,
    )
    theirs = pipe(
        PROMPTS,
        num_inference_steps=8,
        guidance_scale=4.0,
        latents=Draw.keyed(3, range(2), purpose="paint").noise_like(torch.empty(2, 4, 16, 16)),
        output_type="np",
    ).images
    assert np.abs(ours / 255 - theirs).max() <= 1 / 255


@torch.no_grad()
def test_the_shipped_features_tell_real_scenes_from_blurred_ones():
    def features(pictures):
        return load_feature_network()(torch.from_numpy(pictures).permute(0, 3, 1, 2)).numpy()

    real = np.stack([render(sample_scene(np.random.default_rng(i))) for i in range(600)])
    blurred = (real[:300].astype(float) + np.roll(real[:300], 3, 1) + np.roll(real[:300], 3, 2)) / 3
    reference = Gaussian.fit(features(real[300:]))
    from_real = distance(Gaussian.fit(features(real[:300])), reference)
    from_blurred = distance(Gaussian.fit(features(blurred.astype(np.uint8))), reference)
    assert from_blurred > 3 * from_real


def test_a_word_that_the_teacher_was_never_told_is_refused():
    check_words("bundled", PROMPTS)
    with pytest.raises(UserError, match=r"does not know 'dog'.*it knows: .*heart"):
        check_words("bundled", ["a red dog"])

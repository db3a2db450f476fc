"""The weights that are shipped: whole, small, and the same images in stock diffusers."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from fewstep.diffusion.random import Draw
from fewstep.errors import UserError
from fewstep.evaluation.metrics.frechet import Gaussian, distance
from fewstep.models.loading import bundled_folder, load_model
from fewstep.student.generate import teacher_sampler
from fewstep.student.sample import check_words
from fewstep.student.seeds import image_generators
from fewstep.world.features import features_folder, load_feature_network
from fewstep.world.scenes import render, sample_scene

PROMPTS = ["a red heart above a blue star", "two green rings"]


def megabytes(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def test_the_weights_are_small_enough_to_ship():
    assert 2 < megabytes(bundled_folder()) < 20
    assert megabytes(features_folder()) < 2


def test_no_file_names_a_path_of_the_machine_that_made_it():
    texts = [file.read_text() for file in bundled_folder().rglob("*.json")]
    assert len(texts) > 4
    assert not any("_name_or_path" in text for text in texts)


def test_no_scheduler_that_is_made_from_the_shipped_file_clips():
    """As Stable Diffusion 1.5's own file says it; diffusers' DDIM clips where a file does not."""
    config = DDIMScheduler.load_config(bundled_folder() / "scheduler")
    assert dict(config)["clip_sample"] is False
    assert DDIMScheduler.from_config(config).config["clip_sample"] is False


def test_stock_diffusers_generates_the_shipped_teachers_images():
    family = load_model("bundled")
    sampler = teacher_sampler(family, 8, 4.0)
    ours = sampler.decode(sampler.latents(PROMPTS, image_generators(3, 2), 64)).numpy()
    pipe = StableDiffusionPipeline.from_pretrained(bundled_folder())
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
        steps_offset=0,
    )
    theirs = pipe(
        PROMPTS,
        num_inference_steps=8,
        guidance_scale=4.0,
        latents=Draw(image_generators(3, 2)).noise_like(torch.empty(2, 4, 16, 16)),
        output_type="np",
    ).images
    assert np.abs(ours / 255 - theirs).max() <= 1 / 255


@torch.no_grad()
def test_the_shipped_features_tell_real_scenes_from_blurred_and_from_recoloured_ones():
    def gaussian(images):
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        return Gaussian.fit(load_feature_network()(pixels).numpy())

    scenes = [render(sample_scene(np.random.default_rng(i))) for i in range(1200)]
    real, others = np.stack(scenes[:600]), np.stack(scenes[600:])
    shifted = [np.roll(others.astype(float), (x, y), (1, 2)) for x in range(7) for y in range(7)]
    blurred = (sum(shifted) / 49).astype(np.uint8)
    recoloured = others[..., [2, 0, 1]].copy()
    least = distance(gaussian(others), gaussian(real))
    assert distance(gaussian(blurred), gaussian(real)) > 3 * least
    assert distance(gaussian(recoloured), gaussian(real)) > 5 * least


def test_a_word_that_the_teacher_was_never_told_is_refused():
    check_words("bundled", PROMPTS)
    with pytest.raises(UserError, match=r"does not know 'dog'.*it knows: .*heart"):
        check_words("bundled", ["a red dog"])

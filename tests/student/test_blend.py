"""Between teacher and student, and between noise and image."""

from dataclasses import replace

import pytest
import torch

from fewstep.student.blend import blended_network
from fewstep.student.generate import teacher_sampler
from fewstep.student.seeds import image_generators
from tests.artefacts import random_lora, tiny_contract, tiny_family


@pytest.mark.parametrize("preset", ["all", "full"])
def test_a_blend_leads_from_the_teachers_network_to_the_students(preset):
    family, contract = tiny_family(), tiny_contract()
    weights = random_lora(family.network)
    if preset == "full":
        contract = replace(contract, adapter={"preset": "full"})
        weights = {name: w + 1 for name, w in family.network.state_dict().items()}
    teacher, half, student = (
        dict(blended_network(family, contract, weights, part).named_parameters())
        for part in (0.0, 0.5, 1.0)
    )
    for name, weight in family.network.named_parameters():
        torch.testing.assert_close(teacher[name], weight)
        torch.testing.assert_close(half[name], (weight + student[name]) / 2)
    assert any(not torch.equal(student[name], teacher[name]) for name in student)


def test_a_trajectory_leads_from_the_seeds_noise_to_the_images_latents():
    sampler = teacher_sampler(tiny_family(), 3, 2.0)
    noise, *steps = sampler.trajectory(["a star", "a heart"], image_generators(7, 2), 64)
    assert len(steps) == 3
    own = torch.Generator().manual_seed(8)
    assert torch.equal(noise[1], torch.randn(noise.shape[1:], generator=own))
    latents = sampler.latents(["a star", "a heart"], image_generators(7, 2), 64)
    assert torch.equal(steps[-1], latents)


def test_a_teachers_negative_prompt_takes_the_empty_ones_place():
    family, prompts = tiny_family(), ["a star"]
    plain, empty, negated = (
        teacher_sampler(family, 2, 3.0, **options).latents(prompts, image_generators(7, 1), 64)
        for options in ({}, {"negative_prompt": ""}, {"negative_prompt": "a heart"})
    )
    assert torch.equal(plain, empty)
    assert not torch.equal(plain, negated)

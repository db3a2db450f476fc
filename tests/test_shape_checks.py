"""The shape checks that conftest.py installs really look."""

import pytest
import torch
from jaxtyping import TypeCheckError

from fewstep.diffusion.random import Draw
from fewstep.diffusion.solvers import ddim
from fewstep.methods import Batch, ConsistencyDistillation
from fewstep.methods.base import sampling_timesteps
from fewstep.student.samplers import deterministic, last


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


def test_one_timestep_for_two_samples_is_refused(schedule):
    with pytest.raises(TypeCheckError):
        schedule.add_noise(zeros(2, 4), zeros(2, 4), torch.tensor([5]))


def test_noise_of_another_shape_is_refused_even_where_it_would_broadcast(schedule):
    with pytest.raises(TypeCheckError):
        schedule.add_noise(zeros(2, 4), zeros(2, 1), torch.tensor([5, 5]))


def test_timesteps_that_are_not_integers_are_refused(schedule):
    with pytest.raises(TypeCheckError):
        schedule.alpha(torch.tensor([5.0]))


def test_latents_that_are_not_floats_are_refused():
    with pytest.raises(TypeCheckError):
        Batch(torch.zeros(2, 4, dtype=torch.long), {})


def test_noise_for_more_samples_than_were_keyed_is_refused():
    with pytest.raises(TypeCheckError):
        Draw.keyed(0, range(1)).noise_like(zeros(2, 4))


def test_a_denoiser_that_is_no_denoiser_is_refused_in_solvers_and_samplers():
    t = torch.tensor([5])
    with pytest.raises(TypeCheckError):
        ddim("no denoiser", zeros(1, 4), t, t, {})
    with pytest.raises(TypeCheckError):
        last(deterministic("no denoiser", zeros(1, 4), (5,), {}))


def test_methods_are_checked_too():
    with pytest.raises(TypeCheckError):
        sampling_timesteps(ConsistencyDistillation(), "four")

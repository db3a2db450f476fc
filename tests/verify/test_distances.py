"""Distances between sets of samples, and intervals over seeds, against closed forms."""

import math

import pytest
import torch

from fewstep.verify.distances import energy_distance, same_noise


def test_same_noise_is_the_root_mean_square_of_the_distances():
    samples = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert same_noise(samples, torch.zeros(2, 2)) == pytest.approx(math.sqrt(25 / 2))


def test_the_energy_distance_of_two_points_pairs_follows_its_definition():
    ours, theirs = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]])
    expected = 2 * (1 + 5 + 1 + 3) / 4 - 2 - 4
    assert energy_distance(ours, theirs) == pytest.approx(expected)


def test_the_energy_distance_of_shifted_gaussians_is_that_of_the_integral():
    source = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(2, 4000, 1, generator=source).double()
    # E|X - Y| of normals d apart is 2·phi(d/√2)·√2 + d·(2·Phi(d/√2) - 1)
    d = 1.0
    between = 2 / math.sqrt(math.pi) * math.exp(-(d**2) / 4) + d * math.erf(d / 2)
    expected = 2 * between - 4 / math.sqrt(math.pi)
    assert energy_distance(ours, theirs + d) == pytest.approx(expected, rel=0.1)
    assert abs(energy_distance(ours, theirs)) < 0.005

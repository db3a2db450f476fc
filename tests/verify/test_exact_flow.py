"""The exact flow map against an analytic case, itself with half the step, and its own way back."""

import pytest
import torch

from fewstep.diffusion.schedule import CLEAN, NoiseSchedule
from fewstep.verify.exact_flow import ExactFlow
from fewstep.verify.mixture import Mixture
from fewstep.verify.world import (
    LINE,
    PLANE,
    SCHEDULE,
    TOP,
    any_class,
    denoiser_on,
    every_class,
    everywhere,
    exact_flow,
    start,
)

GAUSSIAN = Mixture(
    means=torch.tensor([[0.5, -0.2]], dtype=torch.float64),
    deviations=torch.tensor([0.15], dtype=torch.float64),
    weights=torch.tensor([1.0], dtype=torch.float64),
    classes=torch.tensor([0]),
)


@pytest.fixture
def noise():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("t", "s"), [(999, CLEAN), (999, 249), (499, 19), (19, 749)])
def test_one_gaussian_keeps_every_points_rank(t, s, noise):
    x, cond = start(any_class(50, GAUSSIAN), noise, GAUSSIAN)
    landed = exact_flow(GAUSSIAN)(x, everywhere(t, x), cond).at(everywhere(s, x))

    def standardised(x, t):
        alpha, sigma = SCHEDULE.alphas[t + 1], SCHEDULE.sigmas[t + 1]
        spread = torch.sqrt((alpha * GAUSSIAN.deviations) ** 2 + sigma**2)
        return (x - alpha * GAUSSIAN.means) / spread

    torch.testing.assert_close(standardised(landed, s), standardised(x, t), rtol=1e-6, atol=3e-6)


@pytest.mark.parametrize(("mixture", "guidance_scale"), [(PLANE, 1.0), (PLANE, 3.0), (LINE, 1.0)])
def test_halving_the_step_changes_less_than_the_stated_tolerance(mixture, guidance_scale, noise):
    x, cond = start(every_class(200, mixture), noise, mixture)
    flow = exact_flow(mixture, guidance_scale)
    moved = flow.halving_error(x, everywhere(TOP, x), everywhere(CLEAN, x), cond)
    assert moved.square().mean().sqrt() < 5e-6 * mixture.rms


def test_there_and_back_again(noise):
    x, cond = start(any_class(200), noise)
    x = PLANE.sample(cond["label"], noise)
    flow, clean, top = exact_flow(), everywhere(CLEAN, x), everywhere(TOP, x)
    there = flow(x, clean, cond).at(top)
    back = flow(there, top, cond).at(clean)
    assert (back - x).norm(dim=1).square().mean().sqrt() < 1e-5


def test_two_legs_are_one_journey_from_any_t_to_any_s(noise):
    x, cond = start(any_class(100), noise)
    t, s = torch.randint(500, 1000, (100,)), torch.randint(-1, 250, (100,))
    flow = exact_flow()
    between = everywhere(370, x)
    stop = flow(x, t, cond).at(between)
    two = flow(stop, between, cond).at(s)
    one = flow(x, t, cond).at(s)
    assert (one - two).norm(dim=1).square().mean().sqrt() < 5e-6


def test_a_journey_of_length_zero_stays(noise):
    x, cond = start(any_class(10), noise)
    t = everywhere(499, x)
    torch.testing.assert_close(exact_flow()(x, t, cond).at(t), x, rtol=1e-14, atol=1e-14)


def test_a_schedule_that_ends_in_pure_noise_is_refused():
    pure = NoiseSchedule.from_alphas_cumprod([0.5, 0.0])
    with pytest.raises(ValueError, match="rescale_betas_zero_snr"):
        ExactFlow(denoiser_on, pure)

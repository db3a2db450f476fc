"""Fixed points in one dimension: the maths behind the table, and its conclusions."""

import pytest
import torch

from fewstep.diffusion.grid import Grid
from fewstep.diffusion.schedule import CLEAN
from fewstep.diffusion.solvers import ddim
from fewstep.verify.fixed_points import (
    Distillation,
    Training,
    TrueMap,
    fixed_point,
    huber_minimiser,
    interpolate,
    levels,
    line,
    posterior,
)
from fewstep.verify.measurements import karras, solve
from fewstep.verify.world import LINE, SCHEDULE, any_class, denoiser_on, everywhere


@pytest.fixture(scope="module")
def truth():
    return TrueMap(karras(2))


@pytest.fixture(scope="module")
def bias(truth):
    """Return the function from an objective to its error with N steps and m segments."""

    def bias(objective, num_steps, num_segments=1):
        ends = [round(i * num_steps / num_segments) - 1 for i in range(num_segments)]
        schedule = karras(num_steps)
        return truth.rms_error(fixed_point(objective, schedule, range(CLEAN, num_steps), ends))

    return bias


def test_the_true_map_keeps_every_points_rank(truth):
    """In one dimension a flow cannot change the order, so it maps quantiles to quantiles."""
    assert (truth.targets.diff() >= -1e-6).all()
    below = truth.probability[truth.targets < -0.5].sum()
    assert below.item() == pytest.approx(0.5, abs=0.003)  # the leftmost mode's weight
    assert truth.rms_error(truth.targets) < 1e-9


def test_karras_levels_are_those_of_edms_table():
    rising = karras(3).noise_to_signal(torch.tensor([0, 1, 2]))
    middle = ((0.03 ** (1 / 7) + 14.6 ** (1 / 7)) / 2) ** 7
    torch.testing.assert_close(rising, torch.tensor([0.03, middle, 14.6]), rtol=1e-5, atol=0)


def test_the_posterior_has_the_denoisers_mean():
    x = line(601)
    x_0, probability = posterior(x, levels(SCHEDULE, 499), 49)
    found = denoiser_on(SCHEDULE, LINE)(
        x[:, None], everywhere(499, x), {"label": any_class(len(x), LINE)}
    )
    torch.testing.assert_close(probability.sum(1), torch.ones_like(x))
    torch.testing.assert_close((probability * x_0).sum(1), found.x_0[:, 0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("c", [0.1, 0.03, 0.001])
def test_the_minimiser_is_the_least_of_all_points_of_a_fine_grid(c):
    source = torch.Generator().manual_seed(0)
    target = torch.randn(4, 60, generator=source).double()
    share = torch.rand(4, 60, generator=source).double().softmax(1)
    points = torch.linspace(-3, 3, 6001, dtype=torch.float64)[None, :, None]
    losses = (share[:, None] * torch.sqrt((points - target[:, None]) ** 2 + c**2)).sum(2)
    best = points[0, losses.argmin(1), 0]
    torch.testing.assert_close(huber_minimiser(target, share, c), best, rtol=0, atol=2e-3)


def test_cds_fixed_point_is_the_ddim_trajectory():
    targets = fixed_point(Distillation(8001), SCHEDULE, Grid(20).timesteps, [CLEAN])
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
    teacher = denoiser_on(SCHEDULE, LINE)
    cond = {"label": any_class(len(x), LINE)}
    walked = solve(ddim, teacher, x, Grid(20).timesteps, cond)
    torch.testing.assert_close(interpolate(targets, x), walked, rtol=0, atol=5e-3)


def test_cd_does_not_care_for_segments_and_converges(bias):
    one, four = bias(Distillation(), 40), bias(Distillation(), 40, 4)
    assert four == pytest.approx(one, rel=0.05)
    assert bias(Distillation(), 80) < 0.65 * one


def test_segments_halve_the_bias_of_ct_with_the_squared_error(bias):
    assert bias(Training(), 60, 4) < bias(Training(), 60) / 1.9


def test_the_bias_of_ct_falls_with_the_squared_error_but_not_with_a_small_huber_c(bias):
    assert bias(Training(), 40) < 0.6 * bias(Training(), 10)
    assert bias(Training(0.001), 40) > bias(Training(0.001), 10)


def test_a_pseudo_huber_that_is_wide_enough_is_the_squared_error(bias):
    assert bias(Training(30.0), 20) == pytest.approx(bias(Training(), 20), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("c", [None, 0.03, 0.001])
def test_a_finer_grid_changes_the_table_by_less_than_a_twentieth(bias, c):
    assert bias(Training(c), 50) == pytest.approx(bias(Training(c, 1201, 97), 50), rel=0.05)

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewstep.diffusion.grid import Grid
from fewstep.diffusion.losses import (
    DISTANCES,
    WEIGHTINGS,
    inverse_gap,
    min_snr,
    pseudo_huber,
    pseudo_huber_vector,
    snr_plus_one,
    squared_error,
    uniform,
    x_0_per_jump,
)
from fewstep.diffusion.prediction import PREDICTION_TYPES
from fewstep.diffusion.schedule import CLEAN, NoiseSchedule
from fewstep.diffusion.solvers import ddim

GRID = torch.tensor(Grid(40).timesteps)
ABOVE, BELOW = GRID[1:], GRID[:-1]


def test_the_squared_error_is_a_mean_over_the_elements_of_each_sample():
    difference = torch.tensor([[[1.0, -3.0]], [[0.0, 0.5]]])
    assert squared_error(difference).tolist() == [5.0, 0.125]
    assert squared_error(difference, 7.0).tolist() == [5.0, 0.125]


@given(st.floats(1e-3, 10))
def test_pseudo_huber_is_sqrt_of_squares_minus_c(c):
    difference = torch.tensor([[0.3, -2.0], [0.0, 0.01]])
    expected = [
        sum(math.sqrt(d * d + c * c) - c for d in row) / 2 for row in difference.double().tolist()
    ]
    torch.testing.assert_close(
        pseudo_huber(difference, c), torch.tensor(expected), rtol=1e-4, atol=2e-6
    )


def test_pseudo_huber_is_quadratic_far_below_c_and_linear_far_above_it():
    small, large = torch.full((1, 5), 0.01), torch.full((1, 5), 1000.0)
    assert pseudo_huber(small, 10.0).item() == pytest.approx(0.01**2 / 20, rel=0.2)
    assert pseudo_huber(large, 0.5).item() == pytest.approx(1000 - 0.5, rel=1e-5)
    assert pseudo_huber(small.double(), 10.0).item() == pytest.approx(0.01**2 / 20, rel=1e-5)


def test_the_vector_form_is_one_root_over_the_whole_sample():
    difference = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert pseudo_huber_vector(difference, 12.0).tolist() == pytest.approx([13 - 12, 0])


def test_the_two_pseudo_hubers_differ_but_for_one_element():
    one, many = torch.randn(8, 1), torch.randn(8, 2, 3)
    torch.testing.assert_close(pseudo_huber(one, 0.3), pseudo_huber_vector(one, 0.3))
    assert (pseudo_huber(many, 0.3) - pseudo_huber_vector(many, 0.3)).abs().min() > 0.1


@pytest.mark.parametrize("distance", DISTANCES.values())
def test_every_distance_is_zero_at_zero_with_a_gradient_of_zero(distance):
    difference = torch.zeros(2, 3, requires_grad=True)
    distance(difference, 1e-3).sum().backward()
    assert difference.grad is not None
    assert difference.grad.eq(0).all()


@pytest.mark.parametrize("distance", DISTANCES.values())
def test_every_distance_grows_with_the_difference_and_ignores_its_sign(distance):
    difference = torch.rand(4, 2, 3) + 0.1
    near, far = distance(difference, 0.03), distance(2 * difference, 0.03)
    assert (far > near).all()
    assert (near > 0).all()
    assert torch.equal(distance(-difference, 0.03), near)


@pytest.mark.parametrize("distance", DISTANCES.values())
def test_a_nan_is_not_swallowed_and_stays_with_its_sample(distance):
    difference = torch.ones(3, 4)
    difference[1, 2] = math.nan
    assert distance(difference, 0.03).isnan().tolist() == [False, True, False]


def test_the_uniform_weight_is_1(schedule):
    assert uniform(schedule, ABOVE, BELOW).eq(1).all()


@pytest.mark.parametrize("num_steps", [40, 1000])
def test_the_inverse_gap_is_one_over_the_difference_of_noise_levels(schedule, num_steps):
    grid = torch.tensor(Grid(num_steps).timesteps)
    levels = (schedule.sigmas / schedule.alphas)[grid + 1].tolist()
    expected = torch.tensor([1 / (high - low) for low, high in pairwise(levels)])
    found = inverse_gap(schedule, grid[1:], grid[:-1])
    torch.testing.assert_close(found, expected, rtol=2e-7, atol=0)


def test_min_snr_is_the_snr_up_to_5(schedule):
    weights = min_snr(schedule, ABOVE, BELOW)
    expected = [min(a**2 / (1 - a**2), 5.0) for a in schedule.alphas[ABOVE + 1].tolist()]
    torch.testing.assert_close(weights, torch.tensor(expected))
    assert weights[0] == 5
    assert weights[-1] == pytest.approx(1 / 14.615**2, rel=1e-3)


def test_snr_plus_one_turns_the_squared_error_of_x_0_into_that_of_the_velocity(schedule):
    x_t, output, mistake = torch.randn(3, 40, 6, dtype=torch.float64)
    right, wrong = (
        PREDICTION_TYPES["v_prediction"](v, x_t, ABOVE, schedule).x_0
        for v in (output, output + mistake)
    )
    weighted = snr_plus_one(schedule, ABOVE, BELOW) * squared_error(right - wrong)
    torch.testing.assert_close(weighted, squared_error(mistake), rtol=1e-6, atol=0)


@pytest.mark.parametrize("weighting", WEIGHTINGS.values())
def test_every_weight_is_finite_positive_and_fp32_between_knots(schedule, weighting):
    weights = weighting(schedule, ABOVE, BELOW)
    assert weights.dtype == torch.float32
    assert weights.shape == ABOVE.shape
    assert weights.isfinite().all()
    assert (weights > 0).all()


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("end", [CLEAN, 0, 249, 749, 997])
def test_x_0_per_jump_is_the_slope_that_ddim_has(config, end, rescale):
    schedule = NoiseSchedule.from_config(config | {"rescale_betas_zero_snr": rescale})
    t = torch.arange(end + 1, 1000)
    ends = torch.full_like(t, end)
    x_t, x_0 = torch.randn(2, len(t), 3, dtype=torch.float64)
    nudge = torch.full_like(x_0, 0.5)

    def landing(x_0):
        return ddim(
            lambda x, t, _: PREDICTION_TYPES["sample"](x_0, x, t, schedule), x_t, t, ends, {}
        )

    moved = landing(x_0 + nudge) - landing(x_0)
    slope = x_0_per_jump(schedule, t, ends)[:, None]
    torch.testing.assert_close(moved * slope, nudge, rtol=1e-6, atol=0)


def test_x_0_per_jump_is_1_on_clean_data(schedule):
    clean = torch.full_like(ABOVE, CLEAN)
    assert x_0_per_jump(schedule, ABOVE, clean).eq(1).all()

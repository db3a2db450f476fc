import math
import re

import pytest
import torch

from fewstep.diffusion.losses import WEIGHTINGS, squared_error, x_0_per_jump
from fewstep.diffusion.schedule import NoiseSchedule
from fewstep.methods import METHODS, Batch, ConsistencyDistillation, Method
from fewstep.methods.base import (
    Measured,
    check_curriculum,
    huber_c,
    known_num_steps,
    measure,
    sampling_timesteps,
)

HAVE_CURRICULUM = ("ct", "multi-boundary-ct")
HAVE_SOLVER = ("cd", "multi-boundary-cd")

MEASURED = [name for name, method in METHODS.items() if isinstance(method(), Measured)]
"""The methods with a distance and a weighting."""


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_the_protocol_and_its_settings_are_frozen(name):
    method = METHODS[name]()
    assert isinstance(method, Method)
    with pytest.raises(AttributeError, match="cannot assign"):
        method.num_solver_steps = 50  # type: ignore[misc]


@pytest.mark.parametrize("rows", [1, 3, 5])
def test_a_batch_with_other_rows_of_text_than_of_latents_is_refused(rows):
    with pytest.raises(ValueError, match=rf"cond\['text'\] has {rows} rows for 4 latents"):
        Batch(torch.zeros(4, 2), {"size": torch.zeros(4, 1), "text": torch.zeros(rows, 7)})


HUBER = {"distance": "pseudo-huber"}


@pytest.mark.parametrize("name", MEASURED)
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"distance": "l1"}, "method.distance is 'l1'; known: squared-error, pseudo-huber"),
        ({"weighting": "snr"}, "method.weighting is 'snr'; known: uniform, inverse-gap"),
        (
            {"distance": "squared-error", "huber_c": 0.1},
            "method.huber_c plays no part in distance 'squared-error'; leave it out",
        ),
        (HUBER | {"huber_c": 0.0}, "method.huber_c is 0.0; it has to be above 0"),
        (HUBER | {"huber_c": -1.0}, "method.huber_c is -1.0; it has to be above 0"),
        (HUBER | {"huber_c": math.nan}, "method.huber_c is nan; it has to be above 0"),
        ({"num_solver_steps": 0}, "0 steps do not fit the schedule: use 1 to 1000"),
        ({"num_solver_steps": -40}, "-40 steps do not fit the schedule: use 1 to 1000"),
        ({"num_solver_steps": 1004}, "1004 steps do not fit the schedule: use 1 to 1000"),
        ({"spacing": "karras"}, "method.spacing is 'karras'; known: uniform, quadratic"),
        (
            {"num_solver_steps": 48, "spacing": "quadratic"},
            "48 steps do not fit the schedule with quadratic spacing: use 1 to 44",
        ),
    ],
)
def test_a_setting_that_no_training_could_use_is_refused_by_name(name, settings, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        METHODS[name](**settings)


def test_where_no_huber_c_is_set_the_distance_has_its_own():
    difference = torch.full((2, 4, 64, 64), 0.3)
    assert huber_c(METHODS["cd"](), difference) == 0.001
    assert huber_c(METHODS["ct"](), difference) == 0.03
    assert huber_c(METHODS["cd"](huber_c=0.5), difference) == 0.5
    vector = METHODS["ct"](distance="pseudo-huber-vector")
    assert huber_c(vector, difference) == pytest.approx(0.069, abs=5e-4)  # iCT, 4 x 64 x 64


@pytest.mark.parametrize("name", HAVE_SOLVER)
def test_an_unknown_solver_is_refused_by_name(name):
    with pytest.raises(ValueError, match=r"method.solver is 'euler'; known: ddim, heun"):
        METHODS[name](solver="euler")


@pytest.mark.parametrize("name", HAVE_CURRICULUM)
@pytest.mark.parametrize("settings", [{"final_solver_steps": 1280}, {"num_solver_steps": 0}])
def test_a_curriculum_outside_the_schedule_is_refused(name, settings):
    with pytest.raises(ValueError, match="do not fit the schedule: use 1 to 1000"):
        METHODS[name](**{"num_solver_steps": 40, "final_solver_steps": 80} | settings)


@pytest.mark.parametrize("final", [20, 60, 120, 81])
def test_a_curriculum_that_doubling_does_not_reach_is_refused_with_those_it_reaches(final):
    with pytest.raises(ValueError, match=f"final_solver_steps is {final}.* use 80, 160, 320"):
        check_curriculum(40, final)


@pytest.mark.parametrize(
    ("first", "words"), [(40, "use 80, 160, 320, 640 or leave it out"), (400, "use 800 or leave")]
)
def test_only_numbers_of_solver_steps_that_the_schedule_has_are_recommended(first, words):
    with pytest.raises(ValueError, match=words):
        check_curriculum(first, first + 100)


def test_where_doubling_would_leave_the_schedule_no_number_is_recommended():
    with pytest.raises(ValueError, match=r"doubling 600 does not reach; leave it out$"):
        check_curriculum(600, 1000)


@pytest.mark.parametrize("final", [None, 40, 80, 640])
def test_a_curriculum_that_doubling_reaches_is_accepted(final):
    check_curriculum(40, final)


@pytest.mark.parametrize("num_steps", [1, 2, 4, 5, 8, 10, 20, 40])
def test_a_student_of_one_segment_is_sampled_at_any_even_share_of_its_grid(num_steps):
    starts = sampling_timesteps(ConsistencyDistillation(), num_steps)
    assert starts == tuple(999 - i * 1000 // num_steps for i in range(num_steps))


@pytest.mark.parametrize("num_steps", [0, 3, 6, 50, -1])
def test_other_numbers_of_steps_are_refused_with_those_that_work(num_steps):
    with pytest.raises(ValueError, match=r"use 1, 2, 4, 5, 8, 10, 20, 40$"):
        sampling_timesteps(ConsistencyDistillation(), num_steps)


@pytest.mark.parametrize("name", METHODS)
def test_a_student_can_be_sampled_in_the_numbers_of_steps_it_knows_and_no_other(name):
    method = METHODS[name]()
    for num_steps in range(-1, 1002):
        if num_steps in known_num_steps(method):
            assert len(sampling_timesteps(method, num_steps)) == num_steps
        else:
            with pytest.raises(ValueError, match=f"{num_steps}"):
                sampling_timesteps(method, num_steps)


@pytest.mark.parametrize("name", METHODS)
def test_sampling_timesteps_follow_the_length_of_the_schedule(name):
    assert sampling_timesteps(METHODS[name](), 4, 500) == (499, 374, 249, 124)


def ends_of_three_jumps() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        torch.tensor([999, 624, 249]),
        torch.tensor([974, 599, 224]),
        torch.tensor([749, 499, -1]),
    )


@pytest.mark.parametrize("weighting", ["uniform", "inverse-gap"])
def test_these_weightings_weigh_the_error_where_the_jump_lands(schedule, weighting):
    t, s, end = ends_of_three_jumps()
    method = ConsistencyDistillation(distance="squared-error", weighting=weighting)
    difference = torch.randn(3, 4)
    expected = WEIGHTINGS[weighting](schedule, t, s) * squared_error(difference)
    torch.testing.assert_close(measure(method, difference, t, s, end, schedule), expected)


@pytest.mark.parametrize("weighting", ["min-snr", "snr-plus-one"])
def test_these_weightings_weigh_the_error_of_the_x_0_behind_the_jump(schedule, weighting):
    t, s, end = ends_of_three_jumps()
    method = ConsistencyDistillation(distance="squared-error", weighting=weighting)
    mistake = torch.randn(3, 4)  # of x_0; of the landing it is smaller
    difference = mistake / x_0_per_jump(schedule, t, end)[:, None]
    expected = WEIGHTINGS[weighting](schedule, t, s) * squared_error(mistake)
    torch.testing.assert_close(measure(method, difference, t, s, end, schedule), expected)


@pytest.mark.parametrize("name", MEASURED)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_weighting_that_leaves_out_pure_noise_is_refused_there_and_only_there(
    config, name, weighting
):
    t, s, end = ends_of_three_jumps()
    method = METHODS[name](weighting=weighting)
    for rescale in (False, True):
        schedule = NoiseSchedule.from_config(config | {"rescale_betas_zero_snr": rescale})
        if rescale and weighting in ("inverse-gap", "min-snr"):
            words = f"method.weighting is '{weighting}'.* use 'uniform' or 'snr-plus-one'"
            with pytest.raises(ValueError, match=words):
                measure(method, torch.ones(3, 4), t, s, end, schedule)
        else:
            assert (measure(method, torch.ones(3, 4), t, s, end, schedule) > 0).all()

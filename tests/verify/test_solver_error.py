"""Orders of convergence on the exact ODE."""

import dataclasses

import pytest
import torch

from fewstep.verify.effort import QUICK, silently
from fewstep.verify.measurements import measure_flow, measure_solvers, order, worst_share

EFFORT = dataclasses.replace(QUICK, num_samples=200, order_steps=(20, 40, 100, 200))


@pytest.fixture(scope="module")
def found():
    return measure_solvers(EFFORT, silently)


def test_the_order_of_a_power_law_is_its_power():
    assert order([10, 20, 40], [1.0, 0.25, 0.0625]) == pytest.approx(2.0)


def test_the_worst_two_percent_have_their_share_of_the_squares():
    assert worst_share(torch.ones(100)) == pytest.approx(0.02)
    assert worst_share(torch.tensor([7.0, *[1.0] * 99])) == pytest.approx(50 / 148)


def test_down_to_clean_data_a_few_points_have_much_of_the_squared_error(found):
    for solver in ("ddim", "heun"):
        clean, boundary = found["clean"][solver], found["boundary"][solver]
        assert clean["worst_share"][0] > 0.2
        assert clean["median"] < clean["error"]
        assert boundary["median_order"] == pytest.approx(boundary["order"], abs=0.15)


def test_ddim_is_of_first_order(found):
    assert found["boundary"]["ddim"]["order"] == pytest.approx(1.0, abs=0.15)


def test_heun_is_of_second_order(found):
    assert found["boundary"]["heun"]["order"] == pytest.approx(2.0, abs=0.25)


def test_heun_beats_ddim_at_the_same_nfe_down_to_clean_data(found):
    ddim, heun = (found["clean"][name]["error"] for name in ("ddim", "heun"))
    assert heun[0] < ddim[1]
    assert heun[2] < ddim[3]


def test_the_flow_is_much_more_exact_than_what_it_measures(found):
    halving = measure_flow(EFFORT)
    assert max(h["rms"] for h in halving.values()) < min(found["clean"]["heun"]["error"]) / 50

import re
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from fewstep.diffusion.grid import Grid, doubling, largest_not_above
from fewstep.diffusion.schedule import CLEAN
from fewstep.methods import MultiBoundaryDistillation, MultiBoundaryTraining
from fewstep.methods.base import sampling_timesteps

SEGMENTS = range(1, 17)
SOLVER_STEPS = range(10, 201)


def trailing_of_diffusers(num_steps: int) -> tuple[int, ...]:
    """Return diffusers' trailing timesteps, noisiest first."""
    scheduler = DDIMScheduler(num_train_timesteps=1000, timestep_spacing="trailing")
    scheduler.set_timesteps(num_steps)
    return tuple(scheduler.timesteps.tolist())


@pytest.mark.parametrize("m", SEGMENTS)
def test_solver_segments_and_sampler_meet_wherever_m_divides_n(m):
    starts = trailing_of_diffusers(m)
    for n in SOLVER_STEPS:
        if n % m:
            continue
        ends, grid = Grid(n, m).boundaries, Grid(n).timesteps
        assert len(ends) == m
        assert ends[0] == CLEAN
        assert set(ends) <= set(grid)
        assert Grid(n, m).starts == Grid(m).trailing == (999, *ends[:0:-1]) == starts
        for method in (MultiBoundaryDistillation, MultiBoundaryTraining):
            student = method(num_solver_steps=n, num_segments=m)
            assert sampling_timesteps(student, m) == starts


@pytest.mark.parametrize("m", SEGMENTS)
def test_a_pair_that_does_not_divide_is_refused_with_numbers_of_steps_that_work(m):
    for n in SOLVER_STEPS:
        if n % m == 0:
            continue
        with pytest.raises(ValueError, match=f"{n} solver steps do not contain") as refusal:
            Grid(n, m)
        named = [int(found) for found in re.findall(r"\d+", str(refusal.value).split("use ")[1])]
        assert named
        for working in named:
            assert len(Grid(working, m).boundaries) == m


@pytest.mark.parametrize(("m", "n"), [(4, 50), (3, 40), (16, 10), (7, 200)])
@pytest.mark.parametrize("method", [MultiBoundaryDistillation, MultiBoundaryTraining])
def test_the_methods_and_the_sampler_refuse_in_the_same_words(method, m, n):
    words = f"{n} solver steps do not contain the boundaries .* of {m} segments: use"
    with pytest.raises(ValueError, match=words):
        method(num_solver_steps=n, num_segments=m)
    with pytest.raises(ValueError, match=words):
        Grid(n, m)


def test_the_default_grid_is_that_of_the_papers_readers():
    assert Grid(40, 4).starts == (999, 749, 499, 249)
    assert Grid(40, 4).boundaries == (CLEAN, 249, 499, 749)
    assert Grid(3).timesteps == (CLEAN, 332, 666, 999)


def test_a_refusal_never_names_more_steps_than_the_schedule_has():
    with pytest.raises(ValueError, match=r"use 160 or 496$"):
        Grid(500, 16, num_train_timesteps=500)


@given(st.integers(1, 1000))
def test_timesteps_are_evenly_spaced_to_half_a_timestep_from_clean_to_the_noisiest(n):
    grid = Grid(n).timesteps
    assert len(grid) == n + 1
    assert grid[0] == CLEAN
    assert grid[-1] == 999
    assert all(
        abs(knot + 1 - Fraction(1000 * i, n)) <= Fraction(1, 2) for i, knot in enumerate(grid)
    )
    assert all(low < high for low, high in pairwise(grid))


@given(st.integers(1, 100), st.integers(1, 10))
def test_a_finer_grid_contains_the_coarser_one(n, times):
    assert set(Grid(n).timesteps) <= set(Grid(n * times).timesteps)


def test_quadratic_timesteps_lie_closer_the_less_noise_there_is():
    assert Grid(4, spacing="quadratic").timesteps == (CLEAN, 61, 249, 561, 999)
    assert Grid(16, 4, "quadratic").starts == (999, 561, 249, 61)
    assert Grid(16, 4, "quadratic").boundaries == (CLEAN, 61, 249, 561)
    gaps = [high - low for low, high in pairwise(Grid(16, spacing="quadratic").timesteps)]
    assert gaps == sorted(gaps)


@given(st.integers(1, 11), st.integers(1, 4))
def test_a_finer_quadratic_grid_contains_the_coarser_one(n, times):
    assert set(Grid(n, spacing="quadratic").timesteps) <= set(
        Grid(n * times, spacing="quadratic").timesteps
    )


@pytest.mark.parametrize("total", [1000, 500, 37])
def test_as_many_quadratic_timesteps_are_allowed_as_are_different(total):
    most = Grid(1, 1, "quadratic", total).most_steps
    assert len(set(Grid(most, 1, "quadratic", total).timesteps)) == most + 1
    further = [round(Fraction(i, most + 1) ** 2 * total) - 1 for i in range(most + 2)]
    assert len(set(further)) < most + 2
    with pytest.raises(ValueError, match=f"with quadratic spacing: use 1 to {most}"):
        Grid(most + 1, 1, "quadratic", total)


@pytest.mark.parametrize("n", [0, -4, 1001])
def test_a_grid_outside_the_schedule_is_refused(n):
    with pytest.raises(ValueError, match=f"{n} steps do not fit the schedule: use 1 to 1000"):
        Grid(n)


@pytest.mark.parametrize(
    ("m", "n"), [(0, 40), (-4, 40), (2000, 2000), (4, 0), (4, -40), (4, 4000), (1, 0)]
)
def test_a_grid_of_segments_outside_the_schedule_is_refused(m, n):
    with pytest.raises(ValueError, match="do not fit the schedule"):
        Grid(n, m)


def test_solver_steps_that_a_shorter_schedule_does_not_have_are_refused():
    with pytest.raises(ValueError, match="800 steps do not fit the schedule: use 1 to 500"):
        Grid(800, 4, num_train_timesteps=500)


def test_grids_follow_the_length_of_the_schedule():
    assert Grid(4, num_train_timesteps=500).timesteps == (CLEAN, 124, 249, 374, 499)
    assert Grid(40, 2, num_train_timesteps=500).starts == (499, 249)
    with pytest.raises(ValueError, match="use 1 to 500"):
        Grid(501, num_train_timesteps=500)


@pytest.mark.parametrize(("m", "n"), [(1, 40), (4, 40), (5, 100), (7, 70), (40, 40)])
def test_each_timestep_jumps_to_the_lower_end_of_its_own_segment(m, n):
    """A timestep t in (b, b'] jumps to b, the largest boundary not above the timestep below t."""
    ends, grid = Grid(n, m).boundaries, Grid(n).timesteps
    below = Grid(n, m).boundary_below(torch.tensor(grid[:-1])).tolist()
    for t, end in zip(grid[1:], below, strict=True):
        assert end == max(boundary for boundary in ends if boundary < t)


def test_a_boundary_is_its_own_boundary_below():
    ends = torch.tensor(Grid(40, 4).boundaries)
    assert torch.equal(largest_not_above(ends, ends), ends)
    assert largest_not_above(torch.tensor([999]), ends).item() == 749


@pytest.mark.parametrize(("first", "last"), [(10, 10), (10, 640), (40, 80), (25, 800)])
def test_doubling_follows_the_formula_of_improved_consistency_training(first, last):
    """N(k) = min(s_0 2^floor(k / K'), s_1) with K' = floor(K / (log2 floor(s_1 / s_0) + 1))."""
    num_stages = (last // first).bit_length()
    total = 100 * num_stages
    for step in range(0, total, 7):
        expected = min(first * 2 ** (step // 100), last)
        assert doubling(step / total, first, last) == expected


@given(st.floats(0, 1), st.floats(0, 1))
def test_doubling_never_falls_and_its_grids_are_nested(early, late):
    early, late = sorted((early, late))
    few, many = doubling(early, 10, 640), doubling(late, 10, 640)
    assert 10 <= few <= many <= 640
    assert many % few == 0
    assert doubling(0.0, 10, 640) == 10
    assert doubling(1.0, 10, 640) == 640

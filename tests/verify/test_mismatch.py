"""Perfect students: right on their own grid, wrong on another, and a fixed point of CD."""

import pytest
import torch

from fewstep.diffusion.grid import Grid
from fewstep.diffusion.schedule import CLEAN
from fewstep.methods import (
    Batch,
    ConsistencyDistillation,
    Denoisers,
    MultiBoundaryDistillation,
)
from fewstep.student.samplers import deterministic, last
from fewstep.verify.distances import same_noise
from fewstep.verify.effort import QUICK, silently
from fewstep.verify.exact_flow import perfect_student
from fewstep.verify.measurements import measure_mismatch
from fewstep.verify.students import BatchDraw, StudentDenoiser
from fewstep.verify.world import (
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


@pytest.fixture(scope="module")
def found():
    return measure_mismatch(QUICK, silently)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("num_segments", [1, 4, 8])
def test_a_perfect_student_is_exact_on_its_own_grid(num_segments, guidance_scale):
    x, cond = start(every_class(60), torch.Generator().manual_seed(0))
    flow = exact_flow(guidance_scale=guidance_scale)
    truth = flow(x, everywhere(TOP, x), cond).at(everywhere(CLEAN, x))
    student = perfect_student(flow, Grid(40, num_segments).boundaries)
    samples = last(deterministic(student, x, Grid(num_segments).trailing, cond))
    assert same_noise(samples, truth) < 1e-4 * PLANE.rms


def test_every_mismatch_costs_and_none_as_much_as_not_distilling(found):
    matched, *mismatched, ddim_4, _, _ = [entry["same_noise"] for entry in found.values()]
    assert matched < 1e-4
    assert all(0.01 < cost < ddim_4 for cost in mismatched)


def test_the_same_boundaries_cost_less_on_the_sampler_nearer_to_them(found):
    icd_lcm, icd_trailing, pcm, one_segment = list(found.values())[1:5]
    assert icd_lcm["same_noise"] < icd_trailing["same_noise"]
    assert 3 * icd_trailing["same_noise"] < min(pcm["same_noise"], one_segment["same_noise"])


def test_stochastic_steps_lose_the_noise_but_not_the_distribution(found):
    *_, ddim_4, _, stochastic = found.values()
    assert stochastic["same_noise"] > 2 * ddim_4["same_noise"]
    assert stochastic["energy"] < ddim_4["energy"] / 4


def loss(method, student, teacher, num_samples=100):
    """Return the mean loss on the same batch, in fp64."""
    source = torch.Generator().manual_seed(0)
    label = any_class(num_samples)
    batch = Batch(PLANE.sample(label, source), {"label": label})
    nets = Denoisers(student=student, target=student, teacher=teacher)
    draw = BatchDraw((source,), num_samples=num_samples)
    with torch.no_grad():
        return method.loss(nets, batch, SCHEDULE, draw).loss.mean().item()


@pytest.mark.parametrize("kind", [ConsistencyDistillation, MultiBoundaryDistillation])
def test_under_an_exact_teacher_the_exact_flow_has_no_loss(kind):
    method = kind(distance="squared-error")
    untrained = StudentDenoiser(1, 2, 3, torch.Generator().manual_seed(0)).double()
    flow = exact_flow()
    assert loss(method, flow, flow) < 1e-5 * loss(method, untrained, flow)


def test_under_a_ddim_teacher_the_exact_flows_loss_falls_with_the_square_of_its_steps():
    flow, teacher = exact_flow(), denoiser_on(SCHEDULE)
    steps = (20, 200)
    losses = [
        loss(ConsistencyDistillation(n, distance="squared-error"), flow, teacher) for n in steps
    ]
    assert losses[1] < losses[0] / 10**2

"""What must hold of every method alike."""

import math
from dataclasses import fields

import pytest
import torch

from fewstep.diffusion.prediction import Prediction
from fewstep.diffusion.random import Draw
from fewstep.methods import METHODS, Batch, Denoisers
from fewstep.methods.base import Measured
from fewstep.student.samplers import SAMPLERS

every_method = pytest.mark.parametrize("name", METHODS)
every_measured_method = pytest.mark.parametrize(
    "name", [name for name, method in METHODS.items() if isinstance(method(), Measured)]
)
"""Those with a distance and a weighting."""


def loss(method, nets, batch, schedule, seed=0, samples=range(8), progress=0.4):
    return method.loss(nets, batch, schedule, Draw.keyed(seed, samples, progress=progress))


def part(batch: Batch, rows: slice) -> Batch:
    return Batch(batch.x_0[rows], {name: value[rows] for name, value in batch.cond.items()})


@every_method
def test_its_sampler_exists(name):
    assert METHODS[name].sampler in SAMPLERS


@every_method
def test_only_the_student_gets_gradients(name, schedule, network_of, denoiser_of, batch):
    networks = [network_of(seed) for seed in range(4)]
    nets = Denoisers(*map(denoiser_of, networks))
    loss(METHODS[name](), nets, batch, schedule).loss.sum().backward()
    student, *others = networks
    assert all(weight.grad.abs().sum() > 0 for weight in student.parameters())
    assert all(weight.grad is None for net in others for weight in net.parameters())


@every_method
def test_a_student_that_is_its_own_target_learns_as_from_a_frozen_copy(
    name, schedule, network_of, denoiser_of, batch
):
    gradients = []
    for copied in (False, True):
        student = network_of(0)
        target = network_of(0) if copied else student
        nets = Denoisers(*map(denoiser_of, (student, target, network_of(2), network_of(3))))
        loss(METHODS[name](), nets, batch, schedule).loss.sum().backward()
        gradients.append([weight.grad for weight in student.parameters()])
    assert all(torch.equal(own, copy) for own, copy in zip(*gradients, strict=True))


@every_measured_method
def test_the_gradient_is_that_of_a_finite_difference(
    name, schedule, network_of, denoiser_of, batch
):
    """In fp64, along one direction, with the target held still."""
    student, others = network_of(0).double(), [network_of(seed).double() for seed in (1, 2)]
    nets = Denoisers(*map(denoiser_of, (student, *others)))
    double = Batch(batch.x_0.double(), {"text": batch.cond["text"].double()})
    method = METHODS[name](distance="pseudo-huber", huber_c=0.5)
    loss(method, nets, double, schedule).loss.sum().backward()
    direction = [weight.grad.sign() for weight in student.parameters()]
    slope = sum(
        (weight.grad * d).sum() for weight, d in zip(student.parameters(), direction, strict=True)
    )
    values = []
    for nudge in (1e-5, -2e-5):  # to the right, and from there to the left
        with torch.no_grad():
            for weight, d in zip(student.parameters(), direction, strict=True):
                weight.add_(d, alpha=nudge)
            values.append(loss(method, nets, double, schedule).loss.sum().item())
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(slope.item(), rel=1e-5)


@every_method
def test_under_autocast_everything_but_the_network_is_fp32(
    name, schedule, network_of, denoiser_of, batch
):
    """A loss under bf16 autocast is, to the bit, one whose networks alone ran in bf16."""
    dtypes = []

    def everywhere(network):
        def forward(x_t, t, text):
            output = network(x_t, t, text)
            dtypes.append((x_t.dtype, output.dtype))
            return output

        return denoiser_of(forward)

    def inside(network):
        def forward(x_t, t, text):
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
                return network(x_t, t, text)

        return denoiser_of(forward)

    networks = [network_of(seed) for seed in range(4)]
    method = METHODS[name]()
    alone = loss(method, Denoisers(*map(inside, networks)), batch, schedule)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        around = loss(method, Denoisers(*map(everywhere, networks)), batch, schedule)
    assert set(dtypes) == {(torch.float32, torch.bfloat16)}
    assert around.loss.dtype == torch.float32
    assert torch.equal(around.loss, alone.loss)
    exact = loss(method, Denoisers(*map(denoiser_of, networks)), batch, schedule)
    assert not torch.equal(around.loss, exact.loss)


@every_method
def test_micro_batches_give_the_gradient_of_one_batch(
    name, schedule, network_of, denoiser_of, batch
):
    gradients = []
    for size in (8, 4, 2, 1):
        student = network_of(0)
        nets = Denoisers(*map(denoiser_of, (student, *map(network_of, (1, 2, 3)))))
        for first in range(0, 8, size):
            rows = slice(first, first + size)
            samples = range(first, first + size)
            output = loss(METHODS[name](), nets, part(batch, rows), schedule, samples=samples)
            (output.loss.mean() * size / 8).backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in student.parameters()]))
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-4, atol=1e-6)


@every_method
def test_the_loss_is_a_function_of_its_arguments_and_leaves_global_randomness_alone(
    name, schedule, nets, batch
):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = loss(METHODS[name](), nets, batch, schedule)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(loss(METHODS[name](), nets, batch, schedule).loss, first.loss)
    assert not torch.equal(loss(METHODS[name](), nets, batch, schedule, seed=1).loss, first.loss)


@every_measured_method
def test_every_setting_changes_the_loss(name, schedule, nets, batch):
    """A flag that does nothing is a defect."""
    other = {
        "num_solver_steps": 80,
        "final_solver_steps": 160,
        "num_segments": 2,
        "spacing": "quadratic",
        "solver": "heun",
        "distance": "pseudo-huber-vector",
        "huber_c": 0.5,
        "weighting": "inverse-gap",
    }
    own = {"distance": "pseudo-huber"}
    usual = loss(METHODS[name](**own), nets, batch, schedule, progress=0.9).loss
    for field in fields(METHODS[name]):
        method = METHODS[name](**own | {field.name: other[field.name]})
        changed = loss(method, nets, batch, schedule, progress=0.9).loss
        assert not torch.equal(changed, usual), field.name


@every_measured_method
def test_a_nan_in_one_sample_makes_its_loss_nan_and_no_other(name, schedule, nets, batch):
    x_0 = batch.x_0.clone()
    x_0[5, 2] = math.nan
    losses = loss(METHODS[name](), nets, Batch(x_0, batch.cond), schedule).loss
    assert losses.isnan().tolist() == [i == 5 for i in range(8)]


@every_method
def test_more_solver_steps_than_the_schedule_has_are_refused_before_any_network_is_asked(
    name, config, batch
):
    from fewstep.diffusion.schedule import NoiseSchedule

    def never(x_t, t, cond):
        raise AssertionError("asked")

    short = NoiseSchedule.from_config(config | {"num_train_timesteps": 500})
    method = METHODS[name](num_solver_steps=800)
    with pytest.raises(ValueError, match="800 steps do not fit the schedule: use 1 to 500"):
        loss(method, Denoisers(never, never, never, never), batch, short)


@pytest.mark.parametrize("name", ["cd", "multi-boundary-cd"])
@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_the_exact_flow_of_one_point_has_no_loss(name, solver, schedule, batch):
    """Where all data are one point, student, target and teacher can be right, and then agree."""
    point = torch.tensor([[0.5, -1.0, 2.0, 0.0]])

    def exact(x_t, t, cond):
        alpha, sigma = schedule.levels(t.clamp(min=0), x_t)
        return Prediction(point.expand_as(x_t), (x_t - alpha * point) / sigma, schedule)

    method = METHODS[name](solver=solver, distance="squared-error")
    right = loss(method, Denoisers(exact, exact, exact), batch, schedule).loss
    assert right.max() < 1e-10

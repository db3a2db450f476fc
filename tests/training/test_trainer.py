"""The loop: its steps are what the same steps by hand would be."""

from collections import deque
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from fewstep.config import TrainSettings
from fewstep.diffusion.prediction import from_epsilon
from fewstep.diffusion.random import generator
from fewstep.methods import Batch, ConsistencyTraining, Denoisers
from fewstep.methods.trajectory_matching import TrajectoryMatching
from fewstep.training.average import update_average
from fewstep.training.checkpoint import TrainState
from fewstep.training.divergence import (
    EXPLODED,
    WINDOW,
    DivergenceMonitor,
    TrainingDivergedError,
)
from fewstep.training.loop import (
    FakeTraining,
    by_quarter,
    learning_rate,
    train,
)

SETTINGS = TrainSettings(steps=4, batch_size=8, warmup=0, decay="constant", learning_rate=1e-2)


class Toy:
    """A linear network with its optimiser, and data that is a function of the sample's number."""

    def __init__(self, schedule):
        self.schedule = schedule
        self.network = nn.Linear(3, 3)
        with torch.no_grad():
            self.network.weight.copy_(torch.eye(3) * 0.5)
            self.network.bias.zero_()
        trained = dict(self.network.named_parameters())
        averaged = {name: p.detach().clone() for name, p in trained.items()}
        self.state = TrainState(trained, averaged, torch.optim.AdamW(trained.values(), lr=1e-2))

    def denoise(self, x_t, t, cond):
        return from_epsilon(self.network(x_t), x_t, t, self.schedule)

    def batch_at(self, samples):
        rows = [torch.randn(3, generator=generator("data", i)) for i in samples]
        return Batch(torch.stack(rows), {})

    def steps(self, settings):
        nets = Denoisers(self.denoise, self.denoise, self.denoise)
        method = ConsistencyTraining(distance="squared-error")
        return train(self.state, method, nets, self.schedule, self.batch_at, settings=settings)


@pytest.fixture
def toy(schedule):
    return Toy(schedule)


def test_accumulated_micro_batches_equal_one_large_batch(schedule, toy):
    whole = list(toy.steps(SETTINGS))
    parts = Toy(schedule)
    accumulated = list(parts.steps(replace(SETTINGS, batch_size=2, accumulate=4)))
    for one, other in zip(whole, accumulated, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
    torch.testing.assert_close(toy.network.weight, parts.network.weight, rtol=1e-5, atol=1e-6)


def test_training_lowers_the_loss(toy):
    results = list(toy.steps(replace(SETTINGS, steps=60)))
    assert sum(r.loss for r in results[-10:]) < 0.5 * sum(r.loss for r in results[:10])


def test_steps_are_numbered_from_one_and_continue(toy):
    toy.state.step = 2
    assert [r.step for r in toy.steps(SETTINGS)] == [3, 4]
    assert toy.state.step == 4


def test_a_loss_that_is_no_number_stops_before_the_weights_change(toy):
    steps = toy.steps(SETTINGS)
    next(steps)
    before = toy.network.weight.detach().clone()
    toy.batch_at = lambda samples: Batch(torch.full((len(samples), 3), float("nan")), {})
    broken = toy.steps(SETTINGS)
    with pytest.raises(TrainingDivergedError, match=r"diverged at step 2: the loss is nan"):
        next(broken)
    assert torch.equal(toy.network.weight, before)


def test_a_broken_loss_is_told_with_its_noise_and_what_was_before(toy):
    batch_at = toy.batch_at
    toy.batch_at = lambda samples: (
        batch_at(samples) if samples[0] < 16 else Batch(torch.full((8, 3), float("inf")), {})
    )
    with pytest.raises(TrainingDivergedError, match=r"step 3.*quarter of timesteps; before it was"):
        list(toy.steps(SETTINGS))


def test_an_exploding_loss_stops(toy):
    batch_at, settings = toy.batch_at, replace(SETTINGS, steps=4 * WINDOW)
    grown = 10 * EXPLODED  # the loss is its square

    def growing(samples):
        x_0 = batch_at(samples).x_0
        return Batch(x_0 * (grown if samples[0] >= 8 * 2 * WINDOW else 1), {})

    toy.batch_at, steps = growing, []
    with pytest.raises(TrainingDivergedError, match=r"the loss explodes: the mean of 25 steps was"):
        steps.extend(toy.steps(replace(settings, learning_rate=1e-6)))


def test_the_losses_before_a_resumed_run_count(toy):
    losses = deque([1.0] * (WINDOW - 1), maxlen=WINDOW)
    toy.state.monitor = DivergenceMonitor(losses, lowest=1.0 / (2 * EXPLODED))
    toy.state.step = 2
    with pytest.raises(TrainingDivergedError, match=r"step 3: the loss explodes"):
        next(toy.steps(SETTINGS))


def test_a_scaled_loss_gives_the_weights_of_a_plain_one(schedule, toy):
    list(toy.steps(SETTINGS))
    scaled = Toy(schedule)
    scaled.state.scaler = GradScaler("cpu", init_scale=2.0**10)
    results = list(scaled.steps(SETTINGS))
    assert {result.loss_scale for result in results} == {2.0**10}
    torch.testing.assert_close(scaled.network.weight, toy.network.weight, rtol=1e-6, atol=1e-7)


def test_a_step_whose_gradient_overflows_is_left_out_and_the_scale_lowered(toy):
    factors = iter((float("inf"), 1.0))
    toy.network.weight.register_hook(lambda grad: grad * next(factors))
    before = toy.network.weight.detach().clone()
    toy.state.scaler = GradScaler("cpu", init_scale=2.0**10)
    steps = toy.steps(SETTINGS)
    left_out = next(steps)
    assert (left_out.grad_norm, left_out.loss_scale) == (None, 2.0**9)
    assert torch.equal(toy.network.weight, before)
    taken = next(steps)
    assert (taken.grad_norm > 0, taken.loss_scale) == (True, 2.0**9)
    assert not torch.equal(toy.network.weight, before)


def test_a_gradient_that_overflows_at_every_scale_stops(toy):
    toy.network.weight.register_hook(lambda grad: grad * float("inf"))
    toy.state.scaler = GradScaler("cpu", init_scale=2.0)
    with pytest.raises(TrainingDivergedError, match="overflows fp16 at every scale"):
        list(toy.steps(SETTINGS))


def test_a_fakes_overflow_leaves_out_its_own_update_alone(schedule, toy):
    fake, factors = Toy(schedule), iter((float("inf"), 1.0))
    fake.network.weight.register_hook(lambda grad: grad * next(factors))
    for one, scale in ((toy, 2.0**10), (fake, 2.0**8)):
        one.state.scaler = GradScaler("cpu", init_scale=scale)
    method, teacher = TrajectoryMatching(), Toy(schedule)
    nets = Denoisers(toy.denoise, toy.denoise, torch.no_grad()(teacher.denoise), fake.denoise)
    training = FakeTraining(method, fake.state, SETTINGS, updates=1, warmup=0, learns=nullcontext)
    before = [one.network.weight.detach().clone() for one in (toy, fake)]
    steps = train(toy.state, method, nets, schedule, toy.batch_at, settings=SETTINGS, fake=training)
    result = next(steps)
    assert result.fake["fake_grad_norm"] is None
    assert result.grad_norm is not None
    assert (toy.state.scaler.get_scale(), fake.state.scaler.get_scale()) == (2.0**10, 2.0**7)
    assert not torch.equal(toy.network.weight, before[0])
    assert torch.equal(fake.network.weight, before[1])
    assert next(steps).fake["fake_grad_norm"] > 0
    assert not torch.equal(fake.network.weight, before[1])


def test_a_gradient_that_is_not_finite_stops_and_names_the_weights(toy):
    toy.network.weight.register_hook(lambda grad: grad * float("nan"))
    with pytest.raises(
        TrainingDivergedError, match=r"gradient of 1 of 2 weights is not finite, first weight"
    ):
        next(toy.steps(SETTINGS))


def test_the_learning_rate_rises_then_falls_to_zero():
    settings = TrainSettings(steps=100, warmup=9, learning_rate=0.5)
    rates = [learning_rate(step, settings) for step in range(100)]
    assert rates[0] == pytest.approx(0.05)
    assert max(rates) == rates[9] == pytest.approx(0.5)
    assert rates[-1] < 0.001
    constant = replace(settings, decay="constant")
    assert learning_rate(99, constant) == 0.5


def test_the_average_moves_its_share_of_the_way(toy):
    toy.state.averaged["bias"].fill_(0.0)
    toy.state.trained["bias"].data.fill_(1.0)
    update_average(toy.state.averaged, toy.state.trained, 0.75)
    assert torch.equal(toy.state.averaged["bias"], torch.full((3,), 0.25))


def test_losses_are_told_by_quarter_of_noise(schedule):
    losses, t = torch.tensor([1.0, 3.0, 5.0]), torch.tensor([10, 20, 999])
    assert by_quarter(losses, t, schedule) == (2.0, None, None, 5.0)

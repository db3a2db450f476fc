"""Small networks side by side, their randomness, and that the library's methods teach them."""

import dataclasses

import torch

from fewstep.diffusion.grid import Grid
from fewstep.methods import ConsistencyDistillation
from fewstep.methods.base import sampling_timesteps
from fewstep.verify.effort import QUICK, silently
from fewstep.verify.network_error import HeldOut
from fewstep.verify.students import BatchDraw, StudentDenoiser, Trainer, warm_cosine
from fewstep.verify.world import PLANE, SCHEDULE, any_class, denoiser_on, everywhere

TINY = dataclasses.replace(
    QUICK, num_seeds=2, num_samples=100, batch_size=64, pretraining_steps=150, training_steps=150
)


def students(num_seeds):
    return StudentDenoiser(num_seeds, 2, 2, torch.Generator().manual_seed(0))


def test_a_seeds_network_is_a_plain_multilayer_perceptron():
    nets, rows = students(3), torch.randn(12, 13, generator=torch.Generator().manual_seed(1))
    hidden = rows[4:8]
    for weight, bias in list(zip(nets.weights, nets.biases, strict=True))[:-1]:
        hidden = torch.nn.functional.silu(hidden @ weight[1] + bias[1])
    expected = hidden @ nets.weights[-1][1] + nets.biases[-1][1]
    torch.testing.assert_close(nets.mlps(rows)[4:8], expected)


def test_seeds_start_differently_and_get_no_gradient_from_each_other():
    nets, rows = students(2), torch.ones(8, 13)
    out = nets.mlps(rows)
    assert not torch.equal(out[:4], out[4:])
    out[:4].square().sum().backward()
    assert all(weight.grad[0].any() and not weight.grad[1].any() for weight in nets.weights)


def test_students_start_near_the_best_linear_guess():
    x = torch.randn(9, 2, generator=torch.Generator().manual_seed(1))
    t, cond = everywhere(999, x), {"label": torch.zeros(9, dtype=torch.long)}
    found = students(1)(x, t, cond)
    torch.testing.assert_close(found.at(t), x)
    assert (found.eps - x).abs().max() < 0.5


def test_a_batchs_draw_is_standard_noise_and_visits_every_timestep_alike():
    draw = BatchDraw((torch.Generator().manual_seed(0),), num_samples=20_000)
    noise = draw.noise_like(torch.zeros(20_000, 2))
    t, s = draw.neighbours(Grid(4).timesteps)
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    assert torch.equal(t - s, torch.full_like(t, 250))
    assert all(abs((t == above).float().mean() - 0.25) < 0.02 for above in Grid(4).timesteps[1:])


def test_the_learning_rate_rises_and_falls_to_nothing():
    rates = [warm_cosine(step, 1000) for step in range(1000)]
    assert rates[0] == 1 / 50
    assert max(rates) == max(rates[:60]) > 0.99
    assert rates[-1] < 1e-4


def test_the_same_training_twice_gives_the_same_students():
    trainer = Trainer(PLANE, dataclasses.replace(TINY, pretraining_steps=5), silently)
    teacher = denoiser_on(SCHEDULE)
    first, again = (list(trainer.pretrained(teacher).parameters()) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_short_distillation_brings_one_evaluation_nearer_to_the_truth():
    trainer, teacher = Trainer(PLANE, TINY, silently), denoiser_on(SCHEDULE)
    held_out, method = HeldOut.of(PLANE, 1.0, TINY), ConsistencyDistillation()
    base = trainer.pretrained(teacher)
    student = trainer.distilled(base, method, teacher)
    before, after = (
        held_out.same_noise(
            held_out.sample(one, sampling_timesteps(method, 1), "deterministic"), held_out.truth
        )
        for one in (base, student)
    )
    assert after.value < 0.95 * before.value


def test_distilling_leaves_the_base_as_it_was():
    trainer = Trainer(PLANE, dataclasses.replace(TINY, training_steps=2), silently)
    base = students(2)
    before = [weight.clone() for weight in base.parameters()]
    trainer.distilled(base, ConsistencyDistillation(), denoiser_on(SCHEDULE))
    after = base.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_held_out_truth_is_where_the_teacher_converges_to():
    held_out = HeldOut.of(PLANE, 3.0, TINY)
    coarse, fine = (
        held_out.same_noise(held_out.ddim(calls), held_out.truth).value for calls in (10, 500)
    )
    assert fine < 0.2 * coarse
    assert not (held_out.cond["label"] == any_class(1)).any()

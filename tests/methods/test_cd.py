import math

import pytest
import torch
from diffusers import DDIMScheduler

from fewstep.diffusion.grid import Grid
from fewstep.diffusion.random import Draw
from fewstep.diffusion.schedule import CLEAN
from fewstep.methods import ConsistencyDistillation, Denoisers


def test_the_loss_is_that_of_algorithm_2_written_out_sample_by_sample(
    config, schedule, network_of, nets, batch, draw
):
    """Independent of our own steps: diffusers' DDIM is the solver, plain numbers do the rest."""
    output = ConsistencyDistillation(huber_c=0.01).loss(nets, batch, schedule, draw)
    student, target, teacher = (network_of(seed) for seed in range(3))
    solver = DDIMScheduler(**config, prediction_type="v_prediction", clip_sample=False)
    solver.set_timesteps(40)  # steps of 25

    again = Draw.keyed(0, range(8))
    times, noise = again.neighbours(Grid(40).timesteps)[0], again.noise_like(batch.x_0)
    for i, t in enumerate(times.tolist()):
        text = batch.cond["text"][i : i + 1]

        def x_0(network, x, t, text=text):
            v = network(x, torch.tensor([t]), text)
            return alpha(t) * x - math.sqrt(1 - alpha(t) ** 2) * v

        def alpha(t):
            return math.sqrt(solver.alphas_cumprod[t])

        x_t = alpha(t) * batch.x_0[i] + math.sqrt(1 - alpha(t) ** 2) * noise[i]
        x_t = x_t[None]
        x_s = solver.step(teacher(x_t, torch.tensor([t]), text), t, x_t).prev_sample
        goal = x_0(target, x_s, t - 25) if t >= 25 else x_s
        difference = (x_0(student, x_t, t) - goal)[0].tolist()
        expected = sum(math.sqrt(d * d + 1e-4) - 0.01 for d in difference) / 4
        assert output.loss[i].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert torch.equal(output.t, times)


def test_every_jump_lands_on_clean_data_and_every_teacher_step_on_the_knot_below(
    schedule, nets, batch, draw
):
    jumps = {"student": [], "target": [], "teacher": []}

    def watched(name):
        def denoise(x_t, t, cond):
            pair = getattr(nets, name)(x_t, t, cond)

            class Watched:
                def at(self, s):
                    jumps[name].append((t.tolist(), s.tolist()))
                    return pair.at(s)

            return Watched()

        return denoise

    roles = Denoisers(*map(watched, ("student", "target", "teacher")))
    t = ConsistencyDistillation().loss(roles, batch, schedule, draw).t.tolist()
    below, clean = [max(high - 25, CLEAN) for high in t], [CLEAN] * 8
    assert jumps["student"] == [(t, clean)]
    assert jumps["teacher"] == [(t, below)]
    assert jumps["target"] == [(below, clean)]


def test_at_the_lowest_knot_the_target_is_the_teachers_x_0_itself(schedule, nets, batch):
    """One solver step is ordinary distillation: no target network decides anything."""

    def nonsense(x_t, t, cond):
        pair = nets.target(x_t, t, cond)
        return type(pair)(pair.x_0 * math.nan, pair.eps * math.nan, schedule)

    roles = Denoisers(nets.student, nonsense, nets.teacher)
    method = ConsistencyDistillation(num_solver_steps=1, distance="squared-error")
    output = method.loss(roles, batch, schedule, Draw.keyed(0, range(8)))
    assert output.t.eq(999).all()
    x_t = schedule.add_noise(batch.x_0, redrawn_noise(batch), output.t)
    x_0 = [net(x_t, output.t, batch.cond).x_0 for net in (nets.student, nets.teacher)]
    torch.testing.assert_close(output.loss, (x_0[0] - x_0[1]).square().mean(1))


def redrawn_noise(batch):
    draw = Draw.keyed(0, range(8))
    draw.neighbours(Grid(1).timesteps)
    return draw.noise_like(batch.x_0)


def test_heun_asks_the_teacher_twice_and_gives_another_target(schedule, nets, batch):
    calls = []

    def teacher(x_t, t, cond):
        calls.append(t)
        return nets.teacher(x_t, t, cond)

    roles = Denoisers(nets.student, nets.target, teacher)
    losses = [
        ConsistencyDistillation(solver=solver)
        .loss(roles, batch, schedule, Draw.keyed(0, range(8)))
        .loss
        for solver in ("ddim", "heun")
    ]
    assert len(calls) == 1 + 2
    assert (losses[0] - losses[1]).abs().max() > 1e-4

import pytest
import torch

from fewstep.diffusion.grid import Grid
from fewstep.diffusion.random import Draw
from fewstep.methods import ConsistencyTraining, Denoisers, MultiBoundaryTraining
from fewstep.methods.base import sampling_timesteps

TRAINING = (ConsistencyTraining, MultiBoundaryTraining)


def no_teacher(x_t, t, cond):
    raise AssertionError("training from data alone asked the teacher")


def test_both_ends_of_a_step_are_the_same_data_with_the_same_noise(schedule, nets, batch):
    seen = {}

    def watched(name):
        def denoise(x_t, t, cond):
            seen[name] = (x_t, t)
            return getattr(nets, name)(x_t, t, cond)

        return denoise

    roles = Denoisers(watched("student"), watched("target"), no_teacher)
    ConsistencyTraining().loss(roles, batch, schedule, Draw.keyed(0, range(8)))

    again = Draw.keyed(0, range(8))
    t, s = again.neighbours(Grid(40).timesteps)
    noise = again.noise_like(batch.x_0)
    for name, level in (("student", t), ("target", s)):
        x, asked = seen[name]
        assert torch.equal(asked, level)
        assert torch.equal(x, schedule.add_noise(batch.x_0, noise, level))


def test_the_loss_is_the_distance_of_the_two_predicted_x_0(schedule, nets, batch, draw):
    method = ConsistencyTraining(distance="squared-error")
    output = method.loss(Denoisers(nets.student, nets.target, no_teacher), batch, schedule, draw)
    again = Draw.keyed(0, range(8))
    t, s = again.neighbours(Grid(40).timesteps)
    noise = again.noise_like(batch.x_0)
    for i in range(8):
        row, cond = slice(i, i + 1), {"text": batch.cond["text"][i : i + 1]}
        x_t, x_s = (schedule.add_noise(batch.x_0[row], noise[row], u[row]) for u in (t, s))
        goal = batch.x_0[row] if s[i] < 0 else nets.target(x_s, s[row], cond).x_0
        error = (nets.student(x_t, t[row], cond).x_0 - goal).square().mean()
        torch.testing.assert_close(output.loss[i], error)


@pytest.mark.parametrize("method", TRAINING)
@pytest.mark.parametrize("step", range(4))
def test_the_solver_steps_double_with_progress(schedule, nets, batch, method, step):
    """A doubling schedule at some progress is the plain method with that many steps, to the bit."""
    growing = method(num_solver_steps=20, final_solver_steps=160)
    plain = method(num_solver_steps=20 * 2**step)
    for within in (0.0, 0.99):
        progress = (step + within) / 4
        losses = [
            which.loss(nets, batch, schedule, Draw.keyed(0, range(8), progress=progress)).loss
            for which in (growing, plain)
        ]
        assert torch.equal(*losses)


@pytest.mark.parametrize("method", TRAINING)
def test_a_curriculum_is_sampled_on_its_last_grid(method):
    student = method(num_solver_steps=20, final_solver_steps=160)
    assert sampling_timesteps(student, 4) == (999, 749, 499, 249)
    if method is ConsistencyTraining:
        assert len(sampling_timesteps(student, 32)) == 32

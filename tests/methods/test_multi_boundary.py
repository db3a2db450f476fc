import pytest
import torch

from fewstep.diffusion.grid import Grid
from fewstep.diffusion.losses import DISTANCES, WEIGHTINGS
from fewstep.diffusion.random import Draw
from fewstep.diffusion.solvers import SOLVERS, ddim
from fewstep.methods import (
    ConsistencyDistillation,
    ConsistencyTraining,
    Denoisers,
    MultiBoundaryDistillation,
    MultiBoundaryTraining,
)
from fewstep.methods.base import sampling_timesteps


def loss_and_gradients(method, schedule, network_of, denoiser_of, batch):
    student = network_of(0)
    nets = Denoisers(*map(denoiser_of, (student, network_of(1), network_of(2))))
    output = method.loss(nets, batch, schedule, Draw.keyed(3, range(8), progress=0.6))
    output.loss.sum().backward()
    return [output.loss.detach(), output.t, *(weight.grad for weight in student.parameters())]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_one_segment_is_cd_to_the_bit(
    schedule, network_of, denoiser_of, batch, solver, distance, weighting
):
    settings = {"solver": solver, "distance": distance, "weighting": weighting}
    one, cd = (
        loss_and_gradients(method, schedule, network_of, denoiser_of, batch)
        for method in (
            MultiBoundaryDistillation(num_segments=1, **settings),
            ConsistencyDistillation(**settings),
        )
    )
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(one, cd, strict=True))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("final", [None, 160])
def test_one_segment_is_ct_to_the_bit(
    schedule, network_of, denoiser_of, batch, final, distance, weighting
):
    settings = {"final_solver_steps": final, "distance": distance, "weighting": weighting}
    one, ct = (
        loss_and_gradients(method, schedule, network_of, denoiser_of, batch)
        for method in (
            MultiBoundaryTraining(num_segments=1, **settings),
            ConsistencyTraining(**settings),
        )
    )
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(one, ct, strict=True))


@pytest.mark.parametrize("method", [MultiBoundaryDistillation, MultiBoundaryTraining])
@pytest.mark.parametrize("num_segments", [2, 4, 8])
def test_student_and_target_land_on_the_lower_boundary_of_the_segment(
    schedule, nets, method, num_segments, batch
):
    landings = []

    def watched(x_t, t, cond):
        pair = nets.student(x_t, t, cond)

        class Watched:
            def at(self, s):
                landings.append(s.tolist())
                return pair.at(s)

        return Watched()

    ends = Grid(40, num_segments).boundaries
    draw = Draw.keyed(num_segments, range(8))
    roles = Denoisers(watched, watched, nets.teacher)
    t = method(num_segments=num_segments).loss(roles, batch, schedule, draw).t.tolist()
    expected = [max(end for end in ends if end < high) for high in t]
    assert landings == [expected, expected]


def test_with_a_segment_a_solver_step_the_target_is_the_teachers_step(schedule, nets, batch, draw):
    """m = N is the teacher: the jump that is learnt is one DDIM step long."""
    method = MultiBoundaryDistillation(num_segments=40, distance="squared-error")
    output = method.loss(nets, batch, schedule, draw)
    again = Draw.keyed(0, range(8))
    t, s = again.neighbours(Grid(40).timesteps)
    x_t = schedule.add_noise(batch.x_0, again.noise_like(batch.x_0), t)
    taught, learnt = (ddim(net, x_t, t, s, batch.cond) for net in (nets.teacher, nets.student))
    torch.testing.assert_close(output.loss, (taught - learnt).square().mean(1))
    same = Denoisers(nets.teacher, nets.target, nets.teacher)
    assert method.loss(same, batch, schedule, Draw.keyed(0, range(8))).loss.eq(0).all()


@pytest.mark.parametrize("method", [MultiBoundaryDistillation, MultiBoundaryTraining])
@pytest.mark.parametrize("num_steps", [1, 3, 8])
def test_another_number_of_steps_than_segments_is_refused_with_the_way_out(method, num_steps):
    with pytest.raises(
        ValueError, match=f"in 4 steps, not {num_steps}.*num_segments = {num_steps}"
    ):
        sampling_timesteps(method(num_segments=4), num_steps)

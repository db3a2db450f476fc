"""Trajectory matching: what its losses are, written out again and against an exact score."""

from dataclasses import fields, replace

import pytest
import torch

from fewstep.diffusion.guidance import guided
from fewstep.diffusion.prediction import Prediction
from fewstep.diffusion.random import Draw
from fewstep.diffusion.schedule import CLEAN
from fewstep.methods import METHODS, Batch, Denoisers, LearnsFake, TrajectoryMatching
from fewstep.methods.base import needs_latents
from fewstep.methods.trajectory_matching import noise_again, window
from fewstep.student.samplers import SAMPLERS

SHORT = TrajectoryMatching(num_segments=2)


def losses(method, nets, batch, schedule, name="loss"):
    return getattr(method, name)(nets, batch, schedule, Draw.keyed(0, range(8)))


def with_gradients_kept(nets):
    """Return the roles, and a list that the student's x_0 come into, each with its gradient."""
    kept = []

    def student(x_t, t, cond):
        pred = nets.student(x_t, t, cond)
        pred.x_0.retain_grad()
        kept.append(pred.x_0)
        return pred

    return replace(nets, student=student), kept


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_its_trajectory_is_what_the_sampler_goes_through(sampler, nets, batch, schedule):
    method = TrajectoryMatching(sampler=sampler)
    walked = list(method.trajectory(nets, batch, schedule, Draw.keyed(0, range(8))))
    draw = Draw.keyed(0, range(8))
    x_t, starts = draw.noise_like(batch.x_0), (999, 749, 499, 249)
    points = list(SAMPLERS[sampler](nets.student, x_t, starts, batch.cond, schedule, draw))
    torch.testing.assert_close(walked[-1].z, points[-1], rtol=1e-5, atol=1e-5)
    if sampler == "deterministic":
        assert all(torch.equal(one.z, point) for one, point in zip(walked, points, strict=True))
    assert [one.end for one in walked] == (
        [749, 499, 249, CLEAN] if sampler == "deterministic" else [CLEAN] * 4
    )


def test_the_student_moves_by_guided_teacher_less_fake(nets, batch, schedule):
    """The gradient in x_0, by hand: (fake - teacher) / mean|x_0 - teacher|, over the elements."""
    nets, kept = with_gradients_kept(nets)
    seen = {}

    def spy(name, denoiser):
        def denoise(x_t, t, cond):
            seen[name] = denoiser(x_t, t, cond).x_0.detach()
            return denoiser(x_t, t, cond)

        return denoise

    watched = replace(nets, teacher=spy("T", nets.teacher), fake=spy("F", nets.fake))
    losses(SHORT, watched, batch, schedule).loss.sum().backward()
    x_0, gradient = (torch.cat([getattr(x, what) for x in kept]) for what in ("data", "grad"))
    weight = 1 / (x_0 - seen["T"]).abs().mean(1, keepdim=True)
    expected = weight * (seen["F"] - seen["T"]) / x_0.shape[1]
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)


def test_only_the_fake_learns_from_the_fakes_loss(network_of, denoiser_of, batch, schedule):
    networks = [network_of(seed) for seed in range(4)]
    nets = Denoisers(*map(denoiser_of, networks))
    losses(SHORT, nets, batch, schedule, "fake_loss").loss.sum().backward()
    *others, fake = networks
    assert all(weight.grad.abs().sum() > 0 for weight in fake.parameters())
    assert all(weight.grad is None for net in others for weight in net.parameters())


@pytest.mark.parametrize(("below", "above"), [(CLEAN, 249), (249, 499), (749, 999), (CLEAN, 14)])
def test_matched_timesteps_lie_strictly_inside_the_segment(below, above):
    low, high = window(below, above)
    assert below < low <= high < above


def test_noise_added_inside_a_segment_has_the_schedules_level(schedule):
    """For z = alpha_end x_0 + sigma_end noise, x_tau has alpha_tau and sigma_tau: by moments."""
    from fewstep.methods.trajectory_matching import Segment

    count, draw = 20_000, Draw.keyed(0, range(20_000))
    noise = torch.randn(count, 1, generator=torch.Generator().manual_seed(0))
    x_0 = torch.full((count, 1), 2.0)
    z = schedule.add_noise(x_0, noise, torch.full((count,), 249))
    x_tau, tau, _, share = noise_again(Segment(x_0, z, 249, 400, 400), schedule, draw)
    assert tau.unique().tolist() == [400]
    alpha, sigma = schedule.alpha(tau[:1]).item(), schedule.sigma(tau[:1]).item()
    assert x_tau.mean().item() == pytest.approx(2 * alpha, abs=0.03)
    assert x_tau.std().item() == pytest.approx(sigma, rel=0.03)
    assert share.min() > 0
    assert share.max() < 1


def test_from_clean_data_the_fakes_loss_is_the_plain_error_in_v(nets, batch, schedule):
    """Of the stochastic trajectory, where all noise in x_tau is the drawn one."""
    method, seen = TrajectoryMatching(sampler="stochastic", num_segments=1), []

    def fake(x_t, t, cond):
        seen.append((x_t, t))
        return nets.fake(x_t, t, cond)

    loss = losses(method, replace(nets, fake=fake), batch, schedule, "fake_loss").loss
    ((x_tau, tau),) = seen
    draw = Draw.keyed(0, range(8))
    first = draw.noise_like(batch.x_0)
    x_0 = nets.student(first, torch.full((8,), 999), batch.cond).x_0
    alpha, sigma = schedule.levels(tau, x_0)
    pred, noise = nets.fake(x_tau, tau, batch.cond), (x_tau - alpha * x_0) / sigma
    error = (alpha * pred.eps - sigma * pred.x_0) - (alpha * noise - sigma * x_0)
    torch.testing.assert_close(loss, error.square().mean(1), rtol=1e-3, atol=1e-5)


def test_a_fake_that_is_the_teacher_leaves_the_student_alone(nets, batch, schedule):
    output = losses(SHORT, replace(nets, fake=nets.teacher), batch, schedule)
    assert output.loss.abs().max() < 1e-10
    assert output.gap is not None
    assert output.gap.max() < 1e-5


def test_the_gap_is_to_the_teacher_before_guidance(nets, batch, schedule):
    def guided_far(x_t, t, cond):
        pred = nets.fake(x_t, t, cond)
        return Prediction(pred.x_0 + 5, pred.eps, schedule, unguided=pred.x_0)

    output = losses(SHORT, replace(nets, teacher=guided_far), batch, schedule)
    assert output.gap is not None
    assert output.gap.max() < 1e-5 < output.loss.min()


def test_the_guidance_weight_is_the_guidance_of_another_scale(nets, batch, schedule):
    """Half of scale 3 is scale 2, none of it 1, twice scale 2 is 3: in the gradients' direction."""
    uncond = {name: row[:1] * 0 for name, row in batch.cond.items()}

    def moved(scale, weight):
        kept_nets, kept = with_gradients_kept(nets)
        guided_nets = replace(kept_nets, teacher=guided(nets.teacher, uncond, scale))
        method = replace(SHORT, guidance_weight=weight)
        losses(method, guided_nets, batch, schedule).loss.sum().backward()
        gradient = torch.cat([x_0.grad for x_0 in kept])
        return gradient / gradient.norm(dim=1, keepdim=True)

    for (scale, weight), same in {(3.0, 0.5): 2.0, (3.0, 0.0): 1.0, (2.0, 2.0): 3.0}.items():
        torch.testing.assert_close(moved(scale, weight), moved(same, 1.0), rtol=1e-4, atol=1e-5)


def test_every_setting_changes_the_loss(nets, batch, schedule):
    other = {"num_segments": 2, "num_solver_steps": 80, "spacing": "quadratic",
             "sampler": "stochastic", "anchor": 0.5, "guidance_weight": 0.5}  # fmt: skip
    usual = TrajectoryMatching(anchor=0.1)

    def teacher(x_t, t, cond):
        pred = nets.teacher(x_t, t, cond)
        return replace(pred, unguided=pred.x_0 / 2)

    guided_nets = replace(nets, teacher=teacher)
    for field in fields(TrajectoryMatching):
        changed = replace(usual, **{field.name: other[field.name]})
        one, two = (losses(m, guided_nets, batch, schedule).loss.mean() for m in (usual, changed))
        assert one != two, field.name


def test_the_anchor_is_its_weight_times_the_consistency_loss_of_the_same_jumps(
    nets, batch, schedule
):
    method = TrajectoryMatching(anchor=0.5)
    cd = METHODS["multi-boundary-cd"](distance="squared-error", weighting="snr-plus-one")
    assert method.anchor_method == cd
    plain = losses(replace(method, anchor=0.0), nets, batch, schedule).loss
    with_anchor = losses(method, nets, batch, schedule).loss
    added = (with_anchor - plain).view(4, 8)
    torch.testing.assert_close(added, added[:1].expand(4, 8), rtol=1e-4, atol=1e-5)
    assert added.min() > 0


def test_prompts_are_enough_but_for_the_anchor(nets, batch, schedule):
    prompts = Batch(torch.zeros_like(batch.x_0), batch.cond, has_latents=False)
    assert torch.equal(
        losses(SHORT, nets, prompts, schedule).loss, losses(SHORT, nets, batch, schedule).loss
    )
    anchored = replace(SHORT, anchor=0.5)
    with pytest.raises(ValueError, match=r"method.anchor is 0.5, which needs images or latents"):
        losses(anchored, nets, prompts, schedule)
    assert not needs_latents(SHORT)
    assert needs_latents(anchored)
    assert needs_latents(METHODS["cd"]())
    assert not isinstance(METHODS["cd"](), LearnsFake)


@pytest.mark.parametrize("field", ["anchor", "guidance_weight"])
@pytest.mark.parametrize("value", [-0.1, float("inf"), float("nan")])
def test_a_weight_that_is_none_is_refused(field, value):
    with pytest.raises(ValueError, match=rf"method.{field} is .*; it has to be 0 \(none\) or more"):
        TrajectoryMatching(**{field: value})


def test_a_training_without_a_fake_score_says_so(nets, batch, schedule):
    without = Denoisers(nets.student, nets.target, nets.teacher)
    with pytest.raises(TypeError, match="this training has none"):
        losses(SHORT, without, batch, schedule)


def test_the_fake_learns_what_the_students_update_generated_without_walking_again(
    nets, batch, schedule
):
    output = losses(SHORT, nets, batch, schedule)
    walked = losses(SHORT, nets, batch, schedule, "fake_loss")

    def no_student(x_t, t, cond):
        raise AssertionError("walked again")

    given = replace(batch, generated=output.generated)
    learned = losses(SHORT, replace(nets, student=no_student), given, schedule, "fake_loss")
    assert torch.equal(learned.segment, walked.segment)
    assert not any(one.x_0.requires_grad or one.z.requires_grad for one in output.generated)

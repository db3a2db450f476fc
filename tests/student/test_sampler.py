import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, TCDScheduler

from fewstep.diffusion.grid import Grid
from fewstep.diffusion.prediction import PREDICTION_TYPES, Prediction, output_reader
from fewstep.diffusion.random import Draw, generator
from fewstep.diffusion.schedule import CLEAN
from fewstep.diffusion.solvers import ddim
from fewstep.student.samplers import SAMPLERS, deterministic, diffuse, last, stochastic, tcd

DIVIDES_1000 = (1, 2, 4, 5, 8, 10)
OTHER = (3, 6, 7, 9, 11, 12, 13, 14, 15, 16)


def noise(rows: int = 3) -> torch.Tensor:
    return torch.randn(rows, 4, 6, 6, generator=generator("starting noise"))


def draw(rows: int = 3, first: int = 0) -> Draw:
    return Draw.keyed(11, range(first, first + rows))


def model(schedule, network, kind="epsilon"):
    """Return the toy network as a denoiser."""
    read = output_reader(kind, schedule)
    return lambda x_t, t, cond: read(network(x_t, t), x_t, t, schedule)


def at(t: int, like: torch.Tensor) -> torch.Tensor:
    return torch.full((len(like),), t)


def follow(scheduler, network, x, timesteps, **options):
    """Run a diffusers scheduler; return what it had before each step, and the end."""
    states = [x]
    for t in timesteps:
        x = scheduler.step(network(x, at(t, x)), t, x, **options).prev_sample
        states.append(x)
    return states


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("m", DIVIDES_1000)
def test_stock_ddim_is_the_deterministic_sampler_where_m_divides_1000(
    config, schedule, network, m, kind
):
    theirs = stock_ddim(config, network, m, kind)
    starts = Grid(10 * m, m).starts
    ours = last(deterministic(model(schedule, network, kind), noise(), starts, {}))
    assert (ours - theirs).abs().max() < 1e-5 * theirs.std().clamp(min=1)


@pytest.mark.parametrize("m", OTHER)
def test_stock_ddim_is_another_sampler_where_m_does_not_divide_1000(config, schedule, network, m):
    """It steps down by 1000 // m but samples at rounded ones: for m = 3 to 666, then at 665."""
    theirs = stock_ddim(config, network, m, "v_prediction")
    starts = Grid(10 * m, m).starts
    ours = last(deterministic(model(schedule, network, "v_prediction"), noise(), starts, {}))
    assert (ours - theirs).abs().max() > 3e-4


def stock_ddim(config, network, m, kind):
    scheduler = DDIMScheduler(
        **config, prediction_type=kind, timestep_spacing="trailing", clip_sample=False
    )
    scheduler.set_timesteps(m)
    assert tuple(scheduler.timesteps.tolist()) == Grid(10 * m, m).starts
    return follow(scheduler, network, noise(), scheduler.timesteps.tolist())[-1]


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
@pytest.mark.parametrize("num_solver_steps", [40, 200])
def test_the_stochastic_sampler_equals_lcm_given_the_same_noise(
    config, schedule, network, num_steps, num_solver_steps, kind
):
    """LCM mixes c_skip of x_t into x_0, at most (0.5 / 10 t)² = 2.5e-7 of it for t >= 99."""
    ours, theirs = both_lcm(config, schedule, network, num_steps, num_solver_steps, kind)
    assert (ours - theirs).abs().max() < 1e-5 * theirs.std().clamp(min=1)


def test_over_all_40_timesteps_lcm_differs_by_its_boundary_condition_and_no_more(
    config, schedule, network
):
    """Its lowest call is at t = 24, where c_skip is 4.3e-6: our jump with it put in is LCM's."""
    ours, theirs = both_lcm(config, schedule, network, 40, 40, "v_prediction")
    assert (ours - theirs).abs().max() < 5e-5

    inner = model(schedule, network, "v_prediction")

    def with_boundary_condition(x_t, t, cond):
        scaled = 10 * t[0].item()
        c_skip, c_out = 0.25 / (scaled**2 + 0.25), scaled / math.sqrt(scaled**2 + 0.25)
        pair = inner(x_t, t, cond)
        return Prediction(c_out * pair.x_0 + c_skip * x_t, pair.eps, schedule)

    starts = Grid(40, 40).starts
    ours = last(stochastic(with_boundary_condition, noise(), starts, {}, schedule, draw()))
    assert (ours - theirs).abs().max() < 1e-5


def both_lcm(config, schedule, network, num_steps, num_solver_steps, kind):
    scheduler = LCMScheduler(**config, prediction_type=kind, clip_sample=False)
    scheduler.set_timesteps(num_steps, original_inference_steps=num_solver_steps)
    starts = Grid(num_solver_steps, num_steps).starts
    assert tuple(scheduler.timesteps.tolist()) == starts
    same_noise = list(draw().generators)
    theirs = follow(scheduler, network, noise(), starts, generator=same_noise)[-1]
    return last(
        stochastic(model(schedule, network, kind), noise(), starts, {}, schedule, draw())
    ), theirs


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("gamma", [0.0, 0.3])
@pytest.mark.parametrize("num_steps", [2, 4, 8])
def test_tcd_equals_diffusers_up_to_its_last_step(
    config, schedule, network, num_steps, gamma, kind
):
    """TCDScheduler ends at timestep 0, we on clean data: the last step alone differs."""
    starts = Grid(40, num_steps).starts
    theirs = TCDScheduler(**config, prediction_type=kind, clip_sample=False)
    theirs.set_timesteps(timesteps=list(starts))
    states = follow(theirs, network, noise(), starts, eta=gamma, generator=list(draw().generators))
    evaluated = []
    inner = model(schedule, network, kind)

    def recorded(x_t, t, cond):
        evaluated.append((t[0].item(), x_t))
        return inner(x_t, t, cond)

    ours = last(tcd(recorded, noise(), starts, {}, schedule, draw(), gamma))
    assert [t for t, _ in evaluated] == list(starts)
    scale = max(state.std() for state in states)
    for (_, x_t), state in zip(evaluated, states[:-1], strict=True):
        assert (x_t - state).abs().max() < 1e-5 * scale
    last_x, last_t = states[-2], at(starts[-1], noise())
    theirs_to_clean = ddim(inner, last_x, last_t, at(CLEAN, last_x), {})
    assert (ours - theirs_to_clean).abs().max() < 1e-5 * scale
    assert (ours - states[-1]).abs().max() > 1e-3  # the noise that TCDScheduler leaves


def test_gamma_0_is_the_deterministic_sampler_and_gamma_1_the_stochastic_one(schedule, network):
    starts, denoise = Grid(40, 4).starts, model(schedule, network)
    still = last(tcd(denoise, noise(), starts, {}, schedule, draw(), 0.0))
    assert torch.equal(still, last(deterministic(denoise, noise(), starts, {})))
    fresh = last(tcd(denoise, noise(), starts, {}, schedule, draw(), 1.0))
    assert torch.equal(fresh, last(stochastic(denoise, noise(), starts, {}, schedule, draw())))


@pytest.mark.parametrize("gamma", [-0.1, 1.1, math.nan])
def test_a_gamma_outside_0_to_1_is_refused(schedule, network, gamma):
    with pytest.raises(ValueError, match=f"gamma is {gamma}; it has to be between 0"):
        last(tcd(model(schedule, network), noise(), (999,), {}, schedule, draw(), gamma))


@pytest.mark.parametrize("sampler", SAMPLERS.values())
@pytest.mark.parametrize("m", [1, 4, 5])
def test_a_sampler_evaluates_once_a_step_at_its_timesteps_and_never_at_clean(
    schedule, network, sampler, m
):
    evaluated = []

    def recorded(x_t, t, cond):
        evaluated.append(t.tolist())
        return model(schedule, network)(x_t, t, cond)

    starts = Grid(40, m).starts
    last(sampler(recorded, noise(), starts, {}, schedule, draw()))
    assert evaluated == [[t] * 3 for t in starts]


@pytest.mark.parametrize("sampler", SAMPLERS.values())
def test_a_sampler_yields_what_it_evaluates_next_and_then_the_clean_sample(
    schedule, network, sampler
):
    evaluated = []

    def recorded(x_t, t, cond):
        evaluated.append(x_t)
        return model(schedule, network)(x_t, t, cond)

    starts = Grid(40, 4).starts
    yielded = list(sampler(recorded, noise(), starts, {}, schedule, draw()))
    assert len(yielded) == len(starts)
    for x_s, x_t in zip(yielded[:-1], evaluated[1:], strict=True):
        assert torch.equal(x_s, x_t)
    again = last(sampler(recorded, noise(), starts, {}, schedule, draw()))
    assert torch.equal(yielded[-1], again)


@pytest.mark.parametrize("sampler", SAMPLERS.values())
def test_the_last_jump_is_returned_without_noise_on_it(schedule, network, sampler):
    predictions = []

    def recorded(x_t, t, cond):
        predictions.append(model(schedule, network)(x_t, t, cond))
        return predictions[-1]

    result = last(sampler(recorded, noise(), Grid(40, 4).starts, {}, schedule, draw()))
    assert torch.equal(result, predictions[-1].x_0)


def test_the_stochastic_sampler_puts_the_drawn_noise_back_at_each_start(schedule):
    """A student that always sees the same image is evaluated at alpha x_0 + sigma z, z as drawn."""
    x_0, seen = torch.full((3, 4, 6, 6), 0.5), []

    def knows(x_t, t, cond):
        seen.append(x_t)
        return Prediction(x_0, torch.zeros_like(x_0), schedule)

    starts, again = Grid(40, 4).starts, draw()
    last(stochastic(knows, noise(), starts, {}, schedule, draw()))
    for t, x_t in zip(starts[1:], seen[1:], strict=True):
        expected = schedule.add_noise(x_0, again.noise_like(x_0), at(t, x_0))
        torch.testing.assert_close(x_t, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sampler", SAMPLERS.values())
def test_an_image_does_not_depend_on_the_batch_it_is_sampled_in(schedule, network, sampler):
    starts, denoise, x = Grid(40, 4).starts, model(schedule, network), noise(5)
    together = last(sampler(denoise, x, starts, {}, schedule, draw(5)))
    apart = [last(sampler(denoise, x[:2], starts, {}, schedule, draw(2))),
             last(sampler(denoise, x[2:], starts, {}, schedule, draw(3, first=2)))]  # fmt: skip
    torch.testing.assert_close(torch.cat(apart), together, rtol=0, atol=1e-6)


def test_the_stochastic_sampler_depends_on_the_draw_and_the_deterministic_one_does_not(
    schedule, network
):
    starts, denoise = Grid(40, 4).starts, model(schedule, network)
    changes = {}
    for name, sampler in SAMPLERS.items():
        first, second = (
            last(sampler(denoise, noise(), starts, {}, schedule, draw(first=first)))
            for first in (0, 50)
        )
        changes[name] = (first - second).abs().max().item()
    assert changes["deterministic"] == 0
    assert changes["stochastic"] > 0.1


@pytest.mark.parametrize("m", range(1, 17))
def test_a_perfect_student_sampled_on_its_own_grid_makes_no_error(schedule, m):
    """Data from a bell curve, with the exact flow in place of a network: every m is exact."""
    mean, spread = 0.7, 0.4

    def width(t):
        alpha, sigma = schedule.levels(t, noise())
        return (alpha**2 * spread**2 + sigma**2).sqrt(), alpha * mean

    class Flow:
        def __init__(self, x_t, t):
            deviation, centre = width(t)
            self.quantile = (x_t - centre) / deviation

        def at(self, s):
            deviation, centre = width(s)
            return centre + deviation * self.quantile

    def perfect(x_t, t, cond):
        return Flow(x_t, t)

    one_jump = perfect(noise(), at(999, noise()), {}).at(at(CLEAN, noise()))
    sampled = last(deterministic(perfect, noise(), Grid(m).trailing, {}))
    assert (sampled - one_jump).abs().max() < 1e-5


@pytest.mark.parametrize(("s", "t"), [(CLEAN, 999), (CLEAN, 24), (0, 1), (174, 249), (524, 749)])
def test_diffusing_from_s_to_t_has_the_same_spread_as_diffusing_from_clean_data(schedule, s, t):
    x_s, again = torch.full((3, 4, 6, 6), 2.0), draw().noise_like(noise())
    x_t = diffuse(x_s, at(s, x_s), at(t, x_s), schedule, draw())
    alpha_s, alpha_t = schedule.alphas[s + 1].item(), schedule.alphas[t + 1].item()
    share = alpha_t / alpha_s
    fresh = math.sqrt(1 - share**2)
    torch.testing.assert_close(x_t, share * x_s + fresh * again, rtol=1e-4, atol=1e-5)
    kept = share**2 * (1 - alpha_s**2)
    assert kept + fresh**2 == pytest.approx(1 - alpha_t**2)


@pytest.mark.parametrize("sampler", SAMPLERS.values())
@pytest.mark.parametrize("timesteps", [(), (249, 499), (999, 999), (999, CLEAN), (999, -5)])
def test_timesteps_that_do_not_fall_towards_clean_are_refused(
    schedule, network, sampler, timesteps
):
    with pytest.raises(ValueError, match=r"cannot sample at timesteps .* noisiest first"):
        last(sampler(model(schedule, network), noise(), timesteps, {}, schedule, draw()))


@pytest.mark.parametrize("sampler", SAMPLERS.values())
def test_a_nan_in_one_sample_stays_in_it(schedule, network, sampler):
    x = noise()
    x[1] = math.nan
    result = last(sampler(model(schedule, network), x, Grid(40, 4).starts, {}, schedule, draw()))
    assert result.flatten(1).isnan().any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("sampler", SAMPLERS.values())
def test_sampling_under_autocast_lands_in_fp32_as_without_it(schedule, network, sampler):
    """A network in bf16 behind a border in fp32; the sampler's own sums do not notice."""
    weight = torch.randn(6, 6, generator=generator("weight")) / 3

    def in_bf16(x_t, t):
        with torch.autocast("cpu", torch.bfloat16):
            output = x_t @ weight
        assert output.dtype == torch.bfloat16
        return output.to(x_t.dtype)

    denoise = model(schedule, in_bf16, "v_prediction")
    starts = Grid(40, 4).starts
    plain = last(sampler(denoise, noise(), starts, {}, schedule, draw()))
    with torch.autocast("cpu", torch.bfloat16):
        inside = last(sampler(denoise, noise(), starts, {}, schedule, draw()))
    assert inside.dtype == torch.float32
    assert torch.equal(inside, plain)


def test_sampling_leaves_the_global_randomness_alone(schedule, network):
    before = torch.get_rng_state()
    for sampler in SAMPLERS.values():
        last(sampler(model(schedule, network), noise(), (999, 499), {}, schedule, draw()))
    assert torch.equal(torch.get_rng_state(), before)


def test_each_timestep_of_the_teacher_is_one_ddim_step_of_the_deterministic_sampler(
    schedule, network
):
    denoise, x = model(schedule, network, "v_prediction"), noise()
    for t, s in pairwise(Grid(40).timesteps[::-1]):
        x = ddim(denoise, x, at(t, x), at(s, x), {})
    assert torch.equal(last(deterministic(denoise, noise(), Grid(40).trailing, {})), x)

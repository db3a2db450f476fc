import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler

from fewstep.diffusion.prediction import PREDICTION_TYPES, Prediction, output_reader
from fewstep.diffusion.schedule import CLEAN, NoiseSchedule
from fewstep.diffusion.solvers import SOLVERS, ddim, heun


def at(t: int, rows: int = 2) -> torch.Tensor:
    return torch.full((rows,), t)


def bell(schedule: NoiseSchedule, mean: float = 0.7, spread: float = 1.5):
    """Return the exact denoiser of normal data, and the exact flow of its ODE, in closed form."""

    def denoise(x_t, t, cond):
        alpha, sigma = schedule.levels(t, x_t)
        share = alpha * spread**2 / (alpha**2 * spread**2 + sigma**2)
        x_0 = mean + share * (x_t - alpha * mean)
        eps = sigma / (alpha**2 * spread**2 + sigma**2) * (x_t - alpha * mean)
        return Prediction(x_0, eps, schedule)

    def flow(x_t, t, s):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.levels(t, x_t), schedule.levels(s, x_t)
        widths = (alpha_s**2 * spread**2 + sigma_s**2) / (alpha_t**2 * spread**2 + sigma_t**2)
        return alpha_s * mean + widths.sqrt() * (x_t - alpha_t * mean)

    return denoise, flow


@pytest.mark.parametrize("set_alpha_to_one", [True, False])
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("spacing", ["trailing", "leading", "leading with offset 1"])
@pytest.mark.parametrize("num_steps", [4, 40, 50])
def test_ddim_equals_diffusers_from_noise_to_image(
    config, schedule, network, num_steps, spacing, kind, set_alpha_to_one
):
    theirs = DDIMScheduler(
        **config,
        prediction_type=kind,
        timestep_spacing=spacing.split()[0],
        steps_offset=int("offset" in spacing),
        set_alpha_to_one=set_alpha_to_one,
        clip_sample=False,
    )
    follow_both(theirs, schedule, network, kind, num_steps, 0 if not set_alpha_to_one else CLEAN)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
@pytest.mark.parametrize("num_steps", [4, 40, 50])
def test_ddim_equals_diffusers_from_pure_noise(config, network, num_steps, kind):
    config = config | {"rescale_betas_zero_snr": True}
    schedule = NoiseSchedule.from_config(config)
    theirs = DDIMScheduler(
        **config, prediction_type=kind, timestep_spacing="trailing", clip_sample=False
    )
    follow_both(theirs, schedule, network, kind, num_steps, CLEAN)


def follow_both(theirs, schedule, network, kind, num_steps, last):
    """Compare every single step, and the trajectories, in units of the latents' scale so far."""
    read = output_reader(kind, schedule)

    def denoise(x_t, t, cond):
        return read(network(x_t, t), x_t, t, schedule)

    x = y = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(num_steps))
    theirs.set_timesteps(num_steps)
    scale = y.std()
    for t, s in pairwise([*theirs.timesteps.tolist(), last]):
        step = ddim(denoise, y, at(t), at(s), {})
        x = ddim(denoise, x, at(t), at(s), {})
        y = theirs.step(network(y, at(t)), t, y).prev_sample
        assert (step - y).abs().max() < 1e-5 * y.std(), f"step {t} to {s}"
        scale = max(scale, y.std())
        assert (x - y).abs().max() < 1e-5 * scale, f"trajectory at {s}"


@pytest.mark.parametrize("solver", SOLVERS.values())
@pytest.mark.parametrize("t", [CLEAN, 0, 499, 999])
def test_a_step_of_length_zero_returns_its_input_exactly(schedule, solver, t):
    denoise, _ = bell(schedule)
    x_t = torch.randn(2, 4)
    assert torch.equal(solver(denoise, x_t, at(t), at(t), {}), x_t)


@pytest.mark.parametrize("solver", SOLVERS.values())
def test_a_step_of_length_zero_ignores_even_a_network_that_says_nonsense(schedule, solver):
    def nonsense(x_t, t, cond):
        return Prediction(x_t * math.nan, x_t * math.inf, schedule)

    x_t = torch.randn(2, 4)
    assert torch.equal(solver(nonsense, x_t, at(5), at(5), {}), x_t)


def test_a_ddim_step_to_clean_lands_on_the_predicted_x_0(schedule):
    denoise, _ = bell(schedule)
    x_t = torch.randn(2, 4)
    assert torch.equal(ddim(denoise, x_t, at(300), at(CLEAN), {}), denoise(x_t, at(300), {}).x_0)


@pytest.mark.parametrize("solver", SOLVERS.values())
@pytest.mark.parametrize(("t", "s"), [(999, 499), (20, 999), (700, 0), (300, CLEAN)])
def test_one_step_of_any_length_is_exact_where_the_data_are_one_point(schedule, solver, t, s):
    point = torch.tensor([[1.0, -2.0, 0.5]])

    def denoise_point(x_t, t, cond):
        alpha, sigma = schedule.levels(t, x_t)
        return Prediction(point, (x_t - alpha * point) / sigma, schedule)

    noise = torch.randn(1, 3)
    x_t, x_s = (schedule.add_noise(point, noise, at(level, 1)) for level in (t, s))
    torch.testing.assert_close(solver(denoise_point, x_t, at(t, 1), at(s, 1), {}), x_s)


@pytest.mark.parametrize(("t", "s"), [(999, 499), (400, 100), (100, 600)])
def test_heun_turns_exactly_by_the_angle_with_the_mean_pair_of_both_ends(schedule, t, s):
    """With sigma = sin(phi): x_s = cos(d) x_t + sin(d) v, v at t of the mean of both pairs."""
    x_t = torch.tensor([[0.3, -1.1]], dtype=torch.float64)
    ends = {t: (0.5, -0.4), s: (0.9, 0.2)}

    def denoise(x, level, cond):
        x_0, eps = ends[level.item()]
        return Prediction(torch.full_like(x, x_0), torch.full_like(x, eps), schedule)

    phi_t, phi_s = (math.asin(schedule.sigmas[level + 1]) for level in (t, s))
    mean_x_0, mean_eps = 0.7, -0.1
    v = math.cos(phi_t) * mean_eps - math.sin(phi_t) * mean_x_0
    expected = math.cos(phi_s - phi_t) * x_t + math.sin(phi_s - phi_t) * v
    torch.testing.assert_close(heun(denoise, x_t, at(t, 1), at(s, 1), {}), expected)


@pytest.mark.parametrize("extra", [{}, {"rescale_betas_zero_snr": True}])
@pytest.mark.parametrize(("start", "end"), [(999, 199), (199, 999), (999, CLEAN)])
@pytest.mark.parametrize(("solver", "order", "within"), [(ddim, 1, 0.15), (heun, 2, 0.25)])
def test_the_error_falls_with_the_order_of_the_solver(
    config, solver, order, within, start, end, extra
):
    """Data from a bell curve, whose flow is known in closed form."""
    schedule = NoiseSchedule.from_config(config | extra)
    denoise, flow = bell(schedule)
    x_start = torch.linspace(-2, 2, 16, dtype=torch.float64).reshape(16, 1)
    exact = flow(x_start, at(start, 16), at(end, 16))

    def error(num_steps):
        x, stride = x_start, (end - start) // num_steps
        for t in range(start, end, stride):
            x = solver(denoise, x, at(t, 16), at(t + stride, 16), {})
        return (x - exact).square().mean().sqrt()

    assert math.log2(error(25) / error(50)) == pytest.approx(order, abs=within)


def test_each_sample_of_a_batch_takes_its_own_step(schedule):
    denoise, _ = bell(schedule)
    x_t = torch.randn(3, 4)
    t, s = torch.tensor([999, 500, 20]), torch.tensor([700, 500, CLEAN])
    for solver in SOLVERS.values():
        together = solver(denoise, x_t, t, s, {})
        for i in range(3):
            alone = solver(denoise, x_t[i : i + 1], t[i : i + 1], s[i : i + 1], {})
            torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize("solver", SOLVERS.values())
def test_no_gradient_is_spoilt_by_a_step_of_length_zero(schedule, solver):
    """`where` must not let the branch that it drops turn a gradient into NaN."""
    denoise, _ = bell(schedule)
    weight = torch.tensor(1.5, requires_grad=True)

    def student(x_t, t, cond):
        pair = denoise(x_t, t, cond)
        return Prediction(weight * pair.x_0, pair.eps, schedule)

    t, s = torch.tensor([500, 300]), torch.tensor([500, CLEAN])
    solver(student, torch.randn(2, 4), t, s, {}).sum().backward()
    assert weight.grad is not None
    assert weight.grad.isfinite()

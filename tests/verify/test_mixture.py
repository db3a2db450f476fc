"""The mixture's denoiser against closed forms and derivatives that are computed another way."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from fewstep.diffusion.guidance import guided
from fewstep.diffusion.schedule import CLEAN, NoiseSchedule
from fewstep.verify.mixture import Mixture, MixtureDenoiser
from fewstep.verify.world import LINE, PLANE, SCHEDULE, any_class, everywhere

T = (0, 19, 249, 499, 999)


def noised_log_density(mixture: Mixture, x, t, label):
    """Write the density of noised data down component by component, with torch.distributions."""
    alpha, sigma = SCHEDULE.alphas[t + 1], SCHEDULE.sigmas[t + 1]
    mine = [k for k in range(len(mixture.weights)) if label in (mixture.classes[k], 2)]
    terms = []
    for k in mine:
        variance = (alpha * mixture.deviations[k]) ** 2 + sigma**2
        component = MultivariateNormal(alpha * mixture.means[k], variance * torch.eye(2).double())
        terms.append(mixture.weights[k].log() + component.log_prob(x))
    return torch.logsumexp(torch.stack(terms), 0)


@pytest.mark.parametrize("t", T)
@pytest.mark.parametrize("label", [0, 1, 2])
def test_eps_is_minus_sigma_times_the_score(t, label):
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    (score,) = torch.autograd.grad(noised_log_density(PLANE, x, t, label).sum(), x)
    cond = {"label": torch.full((50,), label)}
    found = MixtureDenoiser(PLANE, SCHEDULE)(x.detach(), everywhere(t, x), cond)
    expected = -SCHEDULE.sigmas[t + 1] * score
    torch.testing.assert_close(found.eps, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("t", [CLEAN, *T])
def test_the_pair_explains_the_noisy_point(t):
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(1)).double()
    found = MixtureDenoiser(PLANE, SCHEDULE)(x, everywhere(t, x), {"label": any_class(50)})
    torch.testing.assert_close(found.at(everywhere(t, x)), x, rtol=1e-12, atol=1e-12)


def test_clean_data_is_its_own_x_0_and_has_no_noise():
    x = torch.randn(9, 1, generator=torch.Generator().manual_seed(2)).double()
    found = MixtureDenoiser(LINE, SCHEDULE)(x, everywhere(CLEAN, x), {"label": any_class(9, LINE)})
    torch.testing.assert_close(found.x_0, x)
    assert found.eps.abs().max() == 0


def test_pure_noise_leaves_the_mean_of_the_class():
    pure = NoiseSchedule.from_alphas_cumprod([0.5, 0.0])
    x = torch.randn(2, 2, generator=torch.Generator().manual_seed(3)).double()
    found = MixtureDenoiser(PLANE, pure)(x, torch.tensor([1, 1]), {"label": torch.tensor([0, 1])})
    for label in (0, 1):
        mine = PLANE.classes == label
        mean = (PLANE.weights[mine, None] * PLANE.means[mine]).sum(0) / PLANE.weights[mine].sum()
        torch.testing.assert_close(found.x_0[label], mean)


def test_one_gaussian_has_wieners_denoiser_in_any_shape():
    mean, deviation, t = 0.3, 0.7, 499
    gaussian = Mixture(
        means=torch.full((1, 12), mean, dtype=torch.float64),
        deviations=torch.tensor([deviation], dtype=torch.float64),
        weights=torch.tensor([1.0], dtype=torch.float64),
        classes=torch.tensor([0]),
    )
    x = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(4)).double()
    found = MixtureDenoiser(gaussian, SCHEDULE)(x, everywhere(t, x), {"label": everywhere(0, x)})
    alpha, sigma = SCHEDULE.alphas[t + 1], SCHEDULE.sigmas[t + 1]
    gain = alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2)
    torch.testing.assert_close(found.x_0, mean + gain * (x - alpha * mean))


def test_the_dtype_is_that_of_the_latents():
    x = torch.zeros(3, 2)
    found = MixtureDenoiser(PLANE, SCHEDULE)(x, everywhere(499, x), {"label": any_class(3)})
    assert found.x_0.dtype == found.eps.dtype == torch.float32


def test_guidance_extrapolates_from_the_unconditional_prediction():
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(5)).double()
    t, cond = everywhere(499, x), {"label": torch.arange(40) % 2}
    exact = MixtureDenoiser(PLANE, SCHEDULE)
    found = guided(exact, PLANE.unconditional, 3.0)(x, t, cond)
    free = exact(x, t, {"label": any_class(40)})
    expected = free.eps + 3 * (exact(x, t, cond).eps - free.eps)
    torch.testing.assert_close(found.eps, expected)
    torch.testing.assert_close(found.at(t), x)


def test_samples_have_the_mixtures_moments_and_classes():
    label = torch.arange(40_000) % 2
    x = PLANE.sample(label, torch.Generator().manual_seed(6))
    mine = PLANE.classes == 1
    weights = PLANE.weights[mine] / PLANE.weights[mine].sum()
    expected = (weights[:, None] * PLANE.means[mine]).sum(0)
    assert (x[label == 1].mean(0) - expected).abs().max() < 4 / math.sqrt(20_000)


def test_the_rms_is_that_of_the_samples():
    x = PLANE.sample(any_class(40_000), torch.Generator().manual_seed(7))
    assert PLANE.rms == pytest.approx(x.square().sum(1).mean().sqrt().item(), rel=0.01)


def test_a_component_without_width_is_refused():
    with pytest.raises(ValueError, match="all deviations of a mixture must be above 0"):
        Mixture(PLANE.means, 0 * PLANE.deviations, PLANE.weights, PLANE.classes)

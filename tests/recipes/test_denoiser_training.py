"""The denoiser's target: on average the noise that was added, with less variance."""

import pytest
import torch

from fewstep.diffusion.random import generator
from fewstep.diffusion.schedule import NoiseSchedule
from recipes.bundled_teacher.denoiser_training import SCHEDULER, expected_noise

SCHEDULE = NoiseSchedule.from_config(SCHEDULER)
WORLD = torch.tensor([-1.3, -0.4, 0.1, 0.9, 1.6])


def sampled(timestep: int, peers: int, count: int = 200_000):
    """Return x_t, the noise in it and the target, for one-dimensional images out of WORLD."""
    draw = generator("target", timestep, peers)
    which = torch.randint(len(WORLD), (count, 1 + peers), generator=draw)
    candidates = WORLD[which].view(count, 1 + peers, 1, 1, 1)
    t = torch.full((count,), timestep)
    noise = torch.randn(count, 1, 1, 1, generator=draw)
    x_t = SCHEDULE.add_noise(candidates[:, 0], noise, t)
    target = expected_noise(x_t, candidates, t, SCHEDULE)
    return x_t.flatten(), noise.flatten(), target.flatten()


@pytest.mark.parametrize("timestep", [200, 600, 950])
def test_the_target_has_the_expectation_of_the_noise_whatever_x_t_is(timestep):
    x_t, noise, target = sampled(timestep, peers=3)
    for weight in (
        torch.ones_like(x_t),
        x_t,
        x_t.square(),
        (x_t > 0.5).float(),
        torch.sin(3 * x_t),
    ):
        difference = (target - noise) * weight
        error = difference.std() / len(difference) ** 0.5
        assert difference.mean().abs() < 4 * error


def test_candidates_remove_most_of_the_variance_of_noisy_targets():
    def variance(peers: int) -> float:
        x_t, _, target = sampled(950, peers)
        alpha, sigma = SCHEDULE.alphas[951], SCHEDULE.sigmas[951]
        misfit = (x_t[:, None] - alpha * WORLD).square() / (2 * sigma**2)
        exact = (x_t - alpha * (torch.softmax(-misfit, 1) * WORLD).sum(1)) / sigma
        return float((target - exact).square().mean())

    assert variance(16) < variance(0) / 10


def test_without_other_candidates_or_with_little_noise_the_target_is_the_noise_itself():
    for timestep, peers in ((600, 0), (0, 16)):
        _, noise, target = sampled(timestep, peers, count=1000)
        torch.testing.assert_close(target, noise, atol=1e-3, rtol=0)

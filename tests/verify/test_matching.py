"""Distribution matching against closed forms: the fake's minimiser, and where the student ends."""

import pytest
import torch

from fewstep.diffusion.random import generator
from fewstep.verify.matching import PAIR, GaussianLaw, fake_minimisers, fixed_point
from fewstep.verify.world import exact_flow, start, to_clean


@pytest.mark.parametrize(
    ("law", "tau"),
    [
        (GaussianLaw(1.0, 0.3, 61), 150),
        (GaussianLaw(1.0, 0.3, 249), 400),
        (GaussianLaw(0.4, 0.6, 499), 700),
    ],
)
def test_the_fakes_loss_has_the_exact_score_as_its_minimiser_and_the_plain_error_has_not(law, tau):
    found = fake_minimisers(law, tau)
    torch.testing.assert_close(found["exact form"], found["exact"], rtol=0.01, atol=0.01)
    bias = (found["plain"] - found["exact"]).abs()
    assert bias[0] > 0.1 * found["exact"][0]


def test_without_guidance_the_student_ends_at_the_teachers_law():
    law = fixed_point()
    assert (law.mean, law.deviation) == pytest.approx((1.0, 0.3), abs=1e-3)


def test_with_the_sign_turned_around_it_moves_away():
    law = fixed_point(sign=-1.0, num_steps=300)
    assert abs(law.mean - 1.0) > 0.7


@pytest.mark.slow
def test_with_guidance_it_ends_far_from_the_guided_teachers_law_and_wider():
    """The over-saturation that long matching shows: the guided score is no diffusion's score."""
    x, cond = start(torch.zeros(2000, dtype=torch.long), generator("guided"), PAIR)
    for scale, mean in ((2.0, 1.51), (4.0, 1.97)):
        law, flow = fixed_point(scale), to_clean(exact_flow(PAIR, scale), x, cond)
        assert law.mean == pytest.approx(mean, abs=0.05)
        assert law.mean - flow.mean() > 0.25
        assert law.deviation > 5 * flow.std()

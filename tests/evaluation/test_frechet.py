"""The Fréchet distance against closed forms, and its influence against resampling."""

import numpy as np
import pytest

from fewstep.evaluation.intervals import mean
from fewstep.evaluation.metrics.frechet import Gaussian, distance, frechet, frechet_paired


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def random_gaussian(rng, d: int) -> Gaussian:
    return Gaussian(rng.normal(size=d), rng.normal(size=(d, d)))


def between(x, y) -> float:
    return distance(Gaussian.fit(x), Gaussian.fit(y))


def test_two_gaussians_in_one_dimension_have_the_distance_of_the_textbook():
    a, b = (
        Gaussian(np.array([1.0]), np.array([[2.0]])),
        Gaussian(np.array([4.0]), np.array([[7.0]])),
    )
    assert distance(a, b) == pytest.approx((4 - 1) ** 2 + (7 - 2) ** 2, abs=1e-12)


def test_diagonal_covariances_have_the_distance_of_their_deviations(rng):
    m1, m2, s1, s2 = rng.uniform(0.1, 3, (4, 12))
    expected = ((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum()
    assert distance(Gaussian(m1, np.diag(s1)), Gaussian(m2, np.diag(s2))) == pytest.approx(expected)


def test_general_gaussians_agree_with_the_eigenvalues_of_the_product(rng):
    a, b = random_gaussian(rng, 6), random_gaussian(rng, 6)
    s1, s2 = a.factor @ a.factor.T, b.factor @ b.factor.T
    root = np.sqrt(np.linalg.eigvals(s1 @ s2).real).sum()
    expected = ((a.mean - b.mean) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * root
    assert distance(a, b) == pytest.approx(expected, rel=1e-8)


def test_a_translation_adds_its_squared_length(rng):
    x, step = rng.normal(size=(300, 8)), rng.normal(size=8)
    assert between(x, x + step) == pytest.approx((step**2).sum(), rel=1e-10)


@pytest.mark.parametrize("shape", [(500, 64), (40, 64)])
def test_a_set_is_at_no_distance_from_itself(rng, shape):
    x = 10 * rng.normal(size=shape)
    assert abs(between(x, x)) < 1e-9


def test_the_distance_is_symmetric_and_does_not_change_under_rotation(rng):
    x, y = rng.normal(size=(200, 10)), 2 * rng.normal(size=(300, 10)) + 1
    turn, _ = np.linalg.qr(rng.normal(size=(10, 10)))
    assert between(x @ turn, y @ turn) == pytest.approx(between(x, y), rel=1e-11)
    assert between(y, x) == pytest.approx(between(x, y), rel=1e-11)


def test_fewer_images_than_dimensions_give_the_same_as_their_covariance(rng):
    x, y = rng.normal(size=(20, 30)), rng.normal(size=(90, 30))
    eigenvalues, vectors = np.linalg.eigh(np.cov(x.T))
    factor = vectors * np.sqrt(np.where(eigenvalues > 1e-12, eigenvalues, 0))
    by_covariance = distance(Gaussian(x.mean(axis=0), factor), Gaussian.fit(y))
    assert between(x, y) == pytest.approx(by_covariance, rel=1e-11)


def test_a_fit_far_from_zero_loses_no_digits(rng):
    x = rng.normal(size=(301, 7))
    near, far = Gaussian.fit(x), Gaussian.fit(x + 1e6)
    np.testing.assert_allclose(far.mean - 1e6, near.mean, atol=1e-8)
    np.testing.assert_allclose(far.factor @ far.factor.T, near.factor @ near.factor.T, atol=1e-8)


@pytest.mark.parametrize("n", [15, 60])
def test_the_numbers_of_the_images_have_the_distance_as_their_mean(rng, n):
    x, y = rng.normal(size=(n, 20)), rng.normal(size=(200, 20)) + 0.5
    values = frechet(x, y)
    assert values.shape == (n,)
    assert values.mean() == pytest.approx(between(x, y), rel=1e-12)


def test_an_images_influence_is_the_derivative_by_its_weight(rng):
    x, y = rng.normal(size=(80, 5)), 1.5 * rng.normal(size=(200, 5)) + 0.3
    reference, values, step = Gaussian.fit(y), frechet(x, y), 1e-5

    def weighted(weights):
        mean = weights @ x / weights.sum()
        covariance = (x - mean).T * weights @ (x - mean) / weights.sum() * 80 / 79
        return distance(Gaussian(mean, np.linalg.cholesky(covariance)), reference)

    for i in (0, 7):
        nudge = step * np.eye(80)[i]
        slope = (weighted(np.ones(80) + nudge) - weighted(np.ones(80) - nudge)) / (2 * step)
        assert 80 * slope == pytest.approx(values[i] - values.mean(), rel=2e-2, abs=1e-3)


def test_the_interval_has_the_width_of_repeated_draws(rng):
    mixing = rng.normal(size=(8, 8))
    reference = Gaussian.fit(rng.normal(size=(4000, 8)) @ mixing)
    draws = [1.2 * rng.normal(size=(400, 8)) @ mixing + 0.2 for _ in range(150)]
    repeated = np.std([distance(Gaussian.fit(x), reference) for x in draws])
    claimed = np.mean([frechet(x, reference).std() / np.sqrt(400) for x in draws])
    assert claimed == pytest.approx(repeated, rel=0.15)


def test_the_interval_of_sets_from_the_same_noises_covers_their_distance(rng):
    true = Gaussian(np.zeros(3), np.eye(3))
    moved = Gaussian(np.array([0.5, 0, 0]), np.diag([0.7, 1, 1.2]))
    hits, widths = 0, {frechet: [], frechet_paired: []}
    for _ in range(200):
        noise = rng.normal(size=(500, 3))
        theirs = noise @ true.factor
        mine = moved.mean + noise @ moved.factor
        for measure, found in widths.items():
            found.append(mean(measure(mine, theirs)))
        paired = widths[frechet_paired][-1]
        hits += paired.low <= distance(moved, true) <= paired.high
    assert 0.9 < hits / 200 < 0.99
    alone, together = (np.mean([i.high - i.low for i in found]) for found in widths.values())
    assert together < 0.7 * alone, "what both have in common is no doubt about the distance"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(rng, bad):
    x = rng.normal(size=(10, 3))
    x[4, 1] = bad
    with pytest.raises(ValueError, match="1 of 10 images have features that are not finite"):
        frechet(x, rng.normal(size=(10, 3)))


def test_one_image_has_no_covariance():
    with pytest.raises(ValueError, match="two images or more"):
        Gaussian.fit(np.ones((1, 4)))

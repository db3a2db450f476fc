"""Distances between sets of features, against closed forms and plain loops."""

import numpy as np
import pytest

from fewstep.evaluation.intervals import mean
from fewstep.evaluation.metrics import METRICS
from fewstep.evaluation.metrics.base import ratio
from fewstep.evaluation.metrics.pairs import clip_score, mean_shift, pooled, psnr, std_ratio
from fewstep.evaluation.metrics.two_sets import (
    CMMD_SCALE,
    CMMD_SIGMA,
    cmmd,
    kid,
    pairwise_distance,
    precision,
    recall,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_kid_is_the_unbiased_estimator_written_out(rng):
    x, y = rng.normal(size=(7, 4)), rng.normal(1, 1, size=(9, 4))

    def kernel(a, b):
        return (a @ b / 4 + 1) ** 3

    xx = np.mean([kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    yy = np.mean([kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    xy = np.mean([kernel(a, b) for a in x for b in y])
    assert kid(x, y).mean() == pytest.approx(xx + yy - 2 * xy, rel=1e-12)


def test_kid_of_two_halves_of_one_set_is_zero_within_its_interval(rng):
    covered = 0
    for _ in range(40):
        found = METRICS["kid"].measure(rng.normal(size=(100, 6)), rng.normal(size=(1000, 6)))
        covered += found.low <= 0 <= found.high
    assert covered >= 34


def test_cmmd_is_the_gaussian_kernels_discrepancy_of_unit_embeddings(rng):
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(6, 3))
    a, b = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (x, y))

    def mean(p, q):
        return np.mean([np.exp(-((i - j) ** 2).sum() / (2 * CMMD_SIGMA**2)) for i in p for j in q])

    expected = CMMD_SCALE * (mean(a, a) + mean(b, b) - 2 * mean(a, b))
    assert cmmd(x, y).mean() == pytest.approx(expected, rel=1e-6)
    assert cmmd(3 * x, x).mean() == pytest.approx(0, abs=1e-9)


def test_a_set_lies_in_itself_and_not_in_one_far_away(rng):
    x, far = rng.normal(size=(200, 3)), rng.normal(20, 1, size=(200, 3))
    assert precision(x, x).mean() == recall(x, x).mean() == 1
    assert precision(x, far).mean() == recall(x, far).mean() == 0


def test_one_mode_of_two_is_precise_and_recalls_half(rng):
    modes = np.concatenate([rng.normal(0, 1, size=(150, 3)), rng.normal(30, 1, size=(150, 3))])
    one = rng.normal(0, 1, size=(200, 3))
    assert precision(one, modes).mean() > 0.85
    assert recall(one, modes).mean() == pytest.approx(0.5, abs=0.06)
    assert len(recall(one, modes)) == 300


def test_a_manifold_needs_neighbours(rng):
    with pytest.raises(ValueError, match="more than 3 images, not 3"):
        precision(rng.normal(size=(5, 2)), rng.normal(size=(3, 2)))


def test_features_of_other_networks_and_broken_ones_are_refused(rng):
    with pytest.raises(ValueError, match="3 features cannot be compared with 4"):
        kid(rng.normal(size=(5, 3)), rng.normal(size=(5, 4)))
    broken = rng.normal(size=(5, 3))
    broken[2, 1] = np.nan
    with pytest.raises(ValueError, match="1 of 5 images have features that are not finite"):
        cmmd(broken, broken)


def test_fewer_images_than_a_metric_needs_are_refused(rng):
    with pytest.raises(ValueError, match="FID needs 2048 images or more, not 10"):
        METRICS["fid"].measure(rng.normal(size=(10, 3)), rng.normal(size=(50, 3)))


def test_the_clip_score_is_the_cosine_of_each_pair(rng):
    x = rng.normal(size=(4, 8))
    assert clip_score(x, 5 * x) == pytest.approx(1)
    assert clip_score(x, -x) == pytest.approx(-1)
    assert clip_score([[1, 0]], [[1, 1]]) == pytest.approx(0.5**0.5)
    with pytest.raises(ValueError, match="4 images but 3 prompts"):
        clip_score(x, x[:3])


def test_latents_are_pooled_over_cells():
    latents = np.zeros((2, 3, 8, 8), np.float32)
    latents[1, 2, 2:4, 4:6] = 5
    cells = pooled(latents).reshape(2, 3, 4, 4)
    assert cells[1, 2, 1, 2] == 5
    assert cells.sum() == 5
    assert pooled(np.ones((1, 3, 6, 65), np.float32)).shape == (1, 48), "of any size"


def test_contrast_and_shift_tell_scaling_from_moving(rng):
    teacher = rng.normal(size=(3, 4, 8, 8))
    assert std_ratio(0.5 * teacher, teacher) == pytest.approx(0.5)
    assert std_ratio(teacher + 7, teacher) == pytest.approx(1)
    assert mean_shift(teacher + 7, teacher) == pytest.approx(7)


def test_a_tenth_of_white_is_20_decibels():
    black = np.zeros((2, 4, 4, 3), np.uint8)
    assert psnr(np.full_like(black, 51), black) == pytest.approx(20 * np.log10(5))
    assert np.isfinite(psnr(black, black)).all()


def test_the_diversity_of_a_square_is_the_mean_of_its_sides_and_diagonals():
    square = np.array([[0, 0], [0, 3], [3, 0], [3, 3]], float)
    same, scaled = np.ones((4, 2)), 2 * square + 7
    expected = 3 * (4 + 2 * np.sqrt(2)) / 6
    assert pairwise_distance(np.stack([square, same, scaled])) == pytest.approx(
        [expected, 0, 2 * expected]
    )


def test_the_diversity_of_a_gaussian_is_its_closed_form(rng):
    """Two draws of N(0, I) in three dimensions are 4 / sqrt(pi) apart on average."""
    found = METRICS["diversity"].measure(rng.normal(5, 1, size=(2000, 8, 3)))
    assert found.n == 2000
    assert found.low <= 4 / np.sqrt(np.pi) <= found.high
    assert found.high - found.low < 0.06


@pytest.mark.parametrize("shape", [(6, 4), (3, 1, 4)])
def test_one_image_a_prompt_has_no_diversity(shape):
    with pytest.raises(ValueError, match="two images or more"):
        pairwise_distance(np.zeros(shape))


def test_a_ratio_has_the_interval_of_its_bootstrap(rng):
    theirs = rng.gamma(4, 1, size=400)
    ours = 0.8 * theirs + rng.normal(0, 0.5, size=400)
    found = mean(ratio(ours, theirs))
    drawn = rng.integers(0, 400, (4000, 400))
    resampled = ours[drawn].mean(1) / theirs[drawn].mean(1)
    low, high = np.percentile(resampled, (2.5, 97.5))
    assert found.value == pytest.approx(ours.mean() / theirs.mean(), rel=1e-12)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.004)
    assert mean(ratio(2 * theirs, theirs)).ends == pytest.approx((2, 2))

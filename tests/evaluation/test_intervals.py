"""Intervals cover the truth about as often as they say."""

from dataclasses import asdict
from math import sqrt

import numpy as np
import pytest

from fewstep.evaluation import intervals
from fewstep.evaluation.intervals import Interval, mean, mean_of_few, pooled, proportion
from fewstep.evaluation.labels import shown_range
from fewstep.strict import from_tables


@pytest.fixture
def rng():
    return np.random.default_rng(1)


@pytest.fixture
def fewer_resamples(monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 500)


def coverage(draw, truth: float, repeats: int = 400) -> float:
    hits = [(i := draw(k)).low <= truth <= i.high for k in range(repeats)]
    return float(np.mean(hits))


@pytest.mark.usefixtures("fewer_resamples")
def test_the_interval_of_a_mean_covers_the_truth(rng):
    rate = coverage(lambda k: mean(rng.exponential(3.0, 150), seed=k), 3.0)
    assert 0.91 <= rate <= 0.98


@pytest.mark.parametrize("truth", [0.02, 0.5, 0.97])
def test_the_interval_of_a_proportion_covers_the_truth(rng, truth):
    rate = coverage(lambda k: proportion(rng.random(200) < truth), truth, 2000)
    assert 0.93 <= rate <= 0.985


@pytest.mark.usefixtures("fewer_resamples")
@pytest.mark.parametrize("between", [0.0, 0.03, 0.3])
def test_the_pooled_interval_covers_the_truth_whatever_the_spread_between_trainings(rng, between):
    def draw(k):
        trainings, prompts = rng.normal(size=(3, 1)) * between, rng.normal(size=(1, 150)) * 0.3
        return pooled(0.6 + trainings + prompts + 0.3 * rng.normal(size=(3, 150)), seed=k)

    assert 0.90 <= coverage(draw, 0.6) <= 0.99


def test_pairing_makes_the_difference_much_surer_than_its_parts(rng):
    prompts = rng.normal(size=500)
    ours, theirs = prompts + 0.1, prompts + 0.01 * rng.normal(size=500)
    difference = mean(ours - theirs)
    alone = mean(ours)
    assert difference.value == pytest.approx(ours.mean() - theirs.mean())
    assert difference.high - difference.low < (alone.high - alone.low) / 20


def test_a_wilson_interval_is_that_of_the_textbook():
    interval = proportion([1] * 81 + [0] * 182)  # Agresti & Coull's form, worked by hand
    assert interval.low == pytest.approx(0.2553, abs=1e-4)
    assert interval.high == pytest.approx(0.3662, abs=1e-4)


def test_where_all_images_agree_the_interval_is_not_a_point():
    interval = proportion(np.ones(100))
    assert interval.low == pytest.approx(100 / (100 + intervals.Z**2), abs=1e-12)
    assert interval.value == interval.high == 1.0


def test_the_same_seed_gives_the_same_interval_and_long_data_are_resampled_in_parts(rng):
    values = rng.normal(size=5_000)
    assert mean(values) == mean(values)
    width = mean(values).high - mean(values).low
    assert width == pytest.approx(2 * 1.96 * values.std() / np.sqrt(5_000), rel=0.06)


def test_a_pooled_share_is_one(rng):
    verdicts = np.ones((3, 50))
    verdicts[0, :5] = 0
    assert pooled(verdicts).high == 1


def test_pooling_counts_each_image_once(rng):
    assert pooled(rng.normal(size=(3, 70))).n == 70


@pytest.mark.parametrize("few", [mean, proportion, mean_of_few, lambda v: pooled([v, v])])
def test_fewer_than_five_values_have_no_interval(few):
    interval = few([0.0, 1.0, 1.0, 1.0])
    assert (interval.value, interval.ends, interval.n) == (0.75, None, 4)
    assert few([0.0, 1.0, 1.0, 1.0, 1.0]).ends


def test_the_interval_of_a_few_numbers_is_students():
    interval = mean_of_few([1.0, 2.0, 3.0, 4.0, 5.0])
    reach = 2.776 * sqrt(2.5 / 5)
    assert (interval.value, interval.n) == (3.0, 5)
    assert interval.ends == pytest.approx((3 - reach, 3 + reach), rel=2e-3)


def test_what_an_older_file_says_of_few_values_is_no_interval_either():
    few = from_tables(Interval, {"value": 5.17, "low": 5.17, "high": 5.17, "n": 3})
    assert (few.ends, shown_range("frechet", few)) == (None, "")
    again = from_tables(Interval, asdict(few))
    assert again == few == Interval(5.17, None, None, 3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mean([1.0]), "two images or more"),
        (lambda: mean([1.0, np.nan]), "1 of 2 values are not finite"),
        (lambda: proportion([0, 0.5]), "verdicts"),
        (lambda: pooled([[1.0, 2.0]]), "two seeds or more"),
        (lambda: Interval(0.5, 0.7, 0.6, 10), "not an interval"),
        (lambda: Interval(float("nan"), 0, 1, 10), "not an interval"),
    ],
)
def test_what_has_no_interval_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()

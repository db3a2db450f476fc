"""Captions are true, can be read back, and are checked against scenes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.world.captions import MOST_WORDS, describe
from fewstep.world.claims import check_claims
from fewstep.world.scenes import Scene, Thing, sample_scene
from fewstep.world.sentences import Claims, Mention, all_words, claims

seeds = st.integers(0, 2**32 - 1)


def thing(shape: str, colour: str, size: str = "big", x: float = 32, y: float = 32) -> Thing:
    return Thing(shape, colour, size, x, y, 11, 0)


HEART_ABOVE_STAR = Scene(
    (thing("heart", "red", "big", 30, 15), thing("star", "blue", "small", 34, 48)), "white"
)
THREE = Scene((thing("star", "red"), thing("star", "red", "small"), thing("moon", "green")), "mint")


@settings(deadline=None, max_examples=200)
@given(seeds, st.booleans())
def test_a_caption_is_true_of_its_scene(seed, held_back):
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, held_back=held_back)
    assert all(check_claims(claims(describe(scene, rng)), scene).values())


@settings(deadline=None, max_examples=200)
@given(seeds)
def test_a_caption_says_the_same_after_reading_and_is_in_the_vocabulary(seed):
    rng = np.random.default_rng(seed)
    caption = describe(sample_scene(rng), rng)
    assert str(claims(caption)) == caption
    assert set(caption.split()) <= set(all_words())
    assert len(caption.split()) <= MOST_WORDS


def test_the_vocabulary_is_small_and_names_no_word_twice():
    assert len(all_words()) == len(set(all_words())) == 48


def test_captions_leave_open_and_say_what_they_should():
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(1500)]
    found = [claims(describe(scene, rng)) for scene in scenes]
    mentions = [mention for claim in found for mention in claim.mentions]
    several = [claim for claim, scene in zip(found, scenes, strict=True) if len(scene.things) > 1]

    assert np.mean([m.colour is not None for m in mentions]) == pytest.approx(0.7, abs=0.06)
    assert np.mean([m.size is not None for m in mentions]) == pytest.approx(0.17, abs=0.06)
    assert np.mean([m.count > 1 for m in mentions]) > 0.08
    assert np.mean([c.relation is not None for c in several]) == pytest.approx(0.45, abs=0.06)
    assert np.mean([c.background is not None for c in found]) == pytest.approx(0.33, abs=0.06)
    assert np.mean([str(c).count(" ") == 1 for c in found]) == pytest.approx(0.2, abs=0.06)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a heart", Claims((Mention(shape="heart"),))),
        ("two red crosses", Claims((Mention(2, None, "red", "cross"),))),
        ("three things on a mint background", Claims((Mention(3),), None, "mint")),
        (
            "A big orange moon  to the left of a star",
            Claims((Mention(1, "big", "orange", "moon"), Mention(shape="star")), "to the left of"),
        ),
        (
            "a ring with a circle and a green thing",
            Claims((Mention(shape="ring"), Mention(shape="circle"), Mention(colour="green"))),
        ),
    ],
)
def test_captions_are_read_by_their_words(caption, expected):
    assert claims(caption) == expected


@pytest.mark.parametrize(
    ("caption", "named"),
    [
        ("a red hart", "'hart' in 'a red hart'"),
        ("two red star", "'star' in 'two red star'"),
        ("red star", "'red star'"),
        ("a star on a plaid background", "'plaid background'"),
        ("a star on a white", "'white'"),
        ("", "''"),
        ("a star above a moon and a ring", "a relation stands between the last two"),
    ],
)
def test_what_cannot_be_read_is_named(caption, named):
    with pytest.raises(ValueError, match=named):
        claims(caption)


@pytest.mark.parametrize(
    ("caption", "scene", "wrong"),
    [
        ("a red heart above a blue star on a white background", HEART_ABOVE_STAR, set()),
        ("a blue star below a thing", HEART_ABOVE_STAR, set()),
        ("a red heart below a blue star", HEART_ABOVE_STAR, {"relation"}),
        ("a heart to the left of a star", HEART_ABOVE_STAR, {"relation"}),  # by less than 5 px
        ("a green heart above a blue star", HEART_ABOVE_STAR, {"colour"}),
        ("a blue heart and a red star", HEART_ABOVE_STAR, {"colour"}),
        ("a red ring above a blue star", HEART_ABOVE_STAR, {"shape"}),
        ("a small red heart", HEART_ABOVE_STAR, {"size"}),
        ("a heart on a black background", HEART_ABOVE_STAR, {"background"}),
        ("three things", HEART_ABOVE_STAR, {"count"}),
        ("two things", HEART_ABOVE_STAR, set()),
        ("a star and a star", HEART_ABOVE_STAR, {"shape"}),
        ("two red stars", THREE, set()),
        ("two blue stars", THREE, {"colour"}),
        ("two small red stars", THREE, {"size"}),
        ("two moons", THREE, {"shape", "count"}),
        ("two things", THREE, {"count"}),
        ("two red stars and a green moon", THREE, set()),
    ],
)
def test_a_wrong_claim_is_found_and_only_that(caption, scene, wrong):
    verdict = check_claims(claims(caption), scene)
    assert {kind for kind, holds in verdict.items() if not holds} == wrong


def test_only_what_was_said_is_judged():
    verdict = check_claims(claims("a red heart on a white background"), HEART_ABOVE_STAR)
    assert verdict == {"shape": True, "colour": True, "background": True}


def test_mentions_are_of_different_things_whatever_their_order():
    both = Scene((thing("star", "blue"), thing("star", "red")), "grey")
    assert all(check_claims(claims("a star and a blue star"), both).values())
    assert not all(check_claims(claims("a blue star and a blue star"), both).values())


def test_things_of_unknown_shape_count_for_nothing():
    blob = replace(HEART_ABOVE_STAR, things=(*HEART_ABOVE_STAR.things, thing("unknown", "red")))
    assert all(check_claims(claims("two things"), blob).values())
    assert not all(check_claims(claims("three things"), blob).values())


def test_an_empty_image_makes_every_claim_about_things_false():
    verdict = check_claims(
        claims("two red stars above a big moon on a mint background"), Scene((), "mint")
    )
    assert {kind for kind, holds in verdict.items() if holds} == {"background"}

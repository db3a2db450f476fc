"""Prompts from menus, the parser's verdict, and text that stays text."""

import re

import numpy as np
import pytest
from PIL import Image

from fewstep.student.png_info import SampledImage
from fewstep.ui.compare import Column
from fewstep.ui.render import message_html, results_html, run_html
from fewstep.ui.runs import RunState
from fewstep.ui.world import GROUNDS, JOINTS, MENUS, compose, verdict
from fewstep.world.captions import describe
from fewstep.world.claims import check_claims
from fewstep.world.scenes import render, sample_scene
from fewstep.world.sentences import claims, unknown_words

MARKUP = "<img src=x onerror='steal()'> & \"quotes\" ${value} {{value}}"


@pytest.mark.parametrize("joint", JOINTS)
def test_every_choice_of_the_menus_is_a_caption_of_the_world(joint):
    draw = np.random.default_rng(0)
    for _ in range(50):
        things = [[draw.choice(words) for words in MENUS.values()] for _ in range(2)]
        caption = compose(*things[0], joint, *things[1], draw.choice(GROUNDS))
        assert not unknown_words(caption)
        assert str(claims(caption)) == caption


def test_the_verdict_is_the_parsers():
    draw = np.random.default_rng(3)
    for _ in range(5):
        scene = sample_scene(draw)
        caption, image = describe(scene, draw), Image.fromarray(render(scene, 64))
        assert verdict(caption, image) == check_claims(claims(caption), scene)
        assert all(verdict(caption, image).values())
    assert not all(verdict("three big purple moons", image).values())
    assert verdict("moons purple three", image) == {}


def column(prompt):
    image = SampledImage(Image.new("RGB", (8, 8)), prompt, 7, 4)
    return Column((), prompt, prompt, 4, lambda: None, 4, (image,), (image.image,) * 5, 0.25)


def test_a_prompt_with_markup_is_text():
    for html in (
        results_html([column(MARKUP)], None),
        message_html(MARKUP),
        run_html(RunState(MARKUP, MARKUP, MARKUP), ""),
    ):
        assert "onerror" in html
        assert "<img src=x" not in html
        assert "'steal()'" not in html


def test_every_image_has_its_cost_its_seed_and_its_verdict_below_it():
    html = results_html([column("a star")], lambda prompt, image: {"shape": True, "colour": False})
    assert "<b>4 NFE</b> · 0.25 s · seed 7" in " ".join(html.split())
    assert "✓ shape" in html
    assert "✗ colour" in html
    assert html.count("data:image/png;base64,") == 2 + 5  # shown, saved by its link, and the strip
    under = re.findall(r"<li>.+?<small>(.+?)</small>", html)
    assert under == ["noise", "step 1", "step 2", "step 3", "step 4"]


def test_a_column_that_is_not_finished_says_how_far_it_is():
    pending = Column((), "Teacher", "50 steps", 50, lambda: None, 12)
    assert "step 12 of 50" in results_html([pending], None)

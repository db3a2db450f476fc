"""What the text encoder is asked: who is mentioned, on which side, and before which background."""

import numpy as np
import torch

from fewstep.world.captions import describe
from fewstep.world.scenes import sample_scene
from recipes.bundled_teacher.config import TextSettings
from recipes.bundled_teacher.text_training import (
    ASKED,
    GROUNDS,
    KINDS,
    PLACES,
    Reader,
    answers,
    build_text_encoder,
)
from recipes.bundled_teacher.tokenizer import save_tokenizer

SIZES = [len(known) for _ in PLACES for known in KINDS.values()] + [len(GROUNDS)]
SIDES = slice(len(KINDS) * PLACES.index("top"), -1)


def test_the_same_scene_in_other_words_has_the_same_sides():
    above, below = answers("a red heart above a star"), answers("a star below a red heart")
    assert above[SIDES] == below[SIDES]
    assert above != below  # the order of mentioning differs
    assert above[SIDES] != answers("a star above a red heart")[SIDES]
    left, right = "a star to the left of two moons", "two moons to the right of a star"
    assert answers(left)[SIDES] == answers(right)[SIDES]


def test_nothing_is_said_by_the_empty_prompt():
    assert answers("") == [0] * len(SIZES)


def test_every_caption_has_an_answer_to_every_question():
    for number in range(300):
        rng = np.random.default_rng([7, number])
        said = answers(describe(sample_scene(rng), rng))
        assert len(said) == len(SIZES)
        assert all(0 <= one < size for one, size in zip(said, SIZES, strict=True))
        assert any(said)


def test_each_place_is_asked_of_its_own_token_behind_every_caption(tmp_path):
    settings = TextSettings(steps=1, width=12, layers=1)
    tokenizer = save_tokenizer(tmp_path / "tokenizer", settings.length)
    reader = Reader(build_text_encoder(settings, tokenizer))
    captions = torch.tensor(tokenizer(["a red heart"], padding="max_length").input_ids)
    read = reader(captions)
    assert [part.shape[1] for part in read] == SIZES
    heard = reader.text_encoder(captions).last_hidden_state[0]
    assert captions.shape[1] == settings.length
    bottom = read[SIDES][len(KINDS) : 2 * len(KINDS)]
    expected = reader.thing(heard[-ASKED + PLACES.index("bottom")])
    torch.testing.assert_close(torch.cat(bottom, 1)[0], expected)
    torch.testing.assert_close(read[-1][0], reader.ground(heard[-1]))

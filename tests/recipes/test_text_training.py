"""The labels of the text encoder: what is mentioned, on which side, and on which background."""

import numpy as np
import torch

from fewstep.world.captions import describe
from fewstep.world.scenes import sample_scene
from recipes.bundled_teacher.config import TextSettings
from recipes.bundled_teacher.text_training import (
    ATTRIBUTES,
    BACKGROUND,
    NUM_QUERY_TOKENS,
    SLOTS,
    CaptionClassifier,
    build_text_encoder,
    labels_of,
)
from recipes.bundled_teacher.tokenizer import save_tokenizer

SIZES = [len(values) for _ in SLOTS for values in ATTRIBUTES.values()] + [len(BACKGROUND)]
SIDES = slice(len(ATTRIBUTES) * SLOTS.index("top"), -1)


def test_the_same_scene_in_other_words_has_the_same_sides():
    above, below = labels_of("a red heart above a star"), labels_of("a star below a red heart")
    assert above[SIDES] == below[SIDES]
    assert above != below  # the order of mentioning differs
    assert above[SIDES] != labels_of("a star above a red heart")[SIDES]
    left, right = "a star to the left of two moons", "two moons to the right of a star"
    assert labels_of(left)[SIDES] == labels_of(right)[SIDES]


def test_the_empty_prompt_mentions_nothing():
    assert labels_of("") == [0] * len(SIZES)


def test_every_caption_has_a_label_for_every_attribute_of_every_slot():
    for number in range(300):
        rng = np.random.default_rng([7, number])
        labels = labels_of(describe(sample_scene(rng), rng))
        assert len(labels) == len(SIZES)
        assert all(0 <= one < size for one, size in zip(labels, SIZES, strict=True))
        assert any(labels)


def test_each_slot_is_predicted_from_its_own_token_after_every_caption(tmp_path):
    settings = TextSettings(steps=1, width=12, layers=1)
    tokenizer = save_tokenizer(tmp_path / "tokenizer", settings.length)
    classifier = CaptionClassifier(build_text_encoder(settings, tokenizer))
    captions = torch.tensor(tokenizer(["a red heart"], padding="max_length").input_ids)
    predicted = classifier(captions)
    assert [part.shape[1] for part in predicted] == SIZES
    hidden = classifier.text_encoder(captions).last_hidden_state[0]
    assert captions.shape[1] == settings.length
    bottom = predicted[SIDES][len(ATTRIBUTES) : 2 * len(ATTRIBUTES)]
    expected = classifier.thing(hidden[-NUM_QUERY_TOKENS + SLOTS.index("bottom")])
    torch.testing.assert_close(torch.cat(bottom, 1)[0], expected)
    torch.testing.assert_close(predicted[-1][0], classifier.ground(hidden[-1]))

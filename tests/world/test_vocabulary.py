"""The teacher's own vocabulary."""

import numpy as np
import pytest

from fewstep.world.captions import MOST_WORDS, describe
from fewstep.world.scenes import sample_scene
from fewstep.world.sentences import all_words, unknown_words
from recipes.bundled_teacher.config import load_teacher_config
from recipes.bundled_teacher.slots import NUM_QUERY_TOKENS
from recipes.bundled_teacher.tokenizer import save_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    length = load_teacher_config().text.length
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"), length)


def test_each_word_is_one_token_of_its_own(tokenizer):
    numbers = [tokenizer(word).input_ids for word in all_words()]
    assert {len(row) for row in numbers} == {3}
    assert len({row[1] for row in numbers}) == len(all_words())


def test_captions_are_as_long_as_their_words_and_keep_clear_of_the_query_tokens(tokenizer):
    rng = np.random.default_rng(0)
    for caption in [describe(sample_scene(rng), rng) for _ in range(300)]:
        assert len(tokenizer(caption).input_ids) == len(caption.split()) + 2
        assert unknown_words(caption) == []
    assert tokenizer.model_max_length - NUM_QUERY_TOKENS >= MOST_WORDS + 2


def test_the_tokenizer_is_reproducible(tokenizer, tmp_path):
    again = save_tokenizer(tmp_path, tokenizer.model_max_length)
    assert again.get_vocab() == tokenizer.get_vocab()


def test_a_foreign_word_is_named_and_is_no_word_of_the_world(tokenizer):
    assert unknown_words("a blue elephant, a red starling and an elephant") == [
        "elephant",
        "starling",
    ]
    known = {tokenizer(word).input_ids[1] for word in all_words()} - {tokenizer("a").input_ids[1]}
    assert not known & set(tokenizer("elephant").input_ids)

"""Prompts of different lengths in one batch."""

import torch

from fewstep.diffusion.conditioning import MASK, joined, padded, without_padding


def cond(tokens, rows=1, value=1.0):
    return {
        "text": torch.full((rows, tokens, 3), value),
        "pooled": torch.full((rows, 5), value),
        MASK: torch.ones(rows, tokens, dtype=torch.bool),
    }


def test_the_shorter_are_padded_and_the_mask_says_where():
    batch = joined([cond(2, value=1.0), cond(4, value=2.0)])
    assert batch["text"][..., 0].tolist() == [[1, 1, 0, 0], [2, 2, 2, 2]]
    assert batch[MASK].tolist() == [[True, True, False, False], [True] * 4]
    assert batch["pooled"].shape == (2, 5)


def test_padding_comes_off_again():
    for tokens in (2, 3):
        short = cond(tokens, rows=2)
        (long,) = padded(short, cond(7))[:1]
        assert long["text"].shape == (2, 7, 3)
        back = without_padding(long)
        assert all(torch.equal(back[name], short[name]) for name in short)


def test_without_a_mask_nothing_is_padded():
    words = {"words": torch.ones(2, 4)}
    assert padded(words, cond(7))[0] is words
    assert without_padding(words) is words
    assert torch.equal(joined([words, words])["words"], torch.ones(4, 4))

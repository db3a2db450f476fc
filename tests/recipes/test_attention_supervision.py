"""Recorded attention equals diffusers' own; the loss is on the tokens that describe a thing."""

import math

import pytest
import torch

from recipes.bundled_teacher.attention_supervision import (
    RecordedAttention,
    attention_loss,
    record_cross_attention,
)
from recipes.bundled_teacher.slots import NO_SLOT, NUM_QUERY_TOKENS, SLOTS
from tests.tiny import tiny_unet

TOKENS, WIDTH = NUM_QUERY_TOKENS + 6, 8
TOP, BOTTOM = SLOTS.index("top"), SLOTS.index("bottom")


def test_a_recorded_network_gives_the_output_of_diffusers():
    torch.manual_seed(0)
    unet = tiny_unet().eval()
    x, t, text = torch.randn(2, 4, 8, 8), torch.tensor([9, 700]), torch.randn(2, TOKENS, 16)
    with torch.no_grad():
        before = unet(x, t, text, return_dict=False)[0]
        recorded = record_cross_attention(unet)
        torch.testing.assert_close(unet(x, t, text, return_dict=False)[0], before)
    assert len(recorded) == sum(name.endswith("attn2") for name, _ in unet.named_modules()) > 1
    for attention in recorded:
        torch.testing.assert_close(
            attention.log_attention.exp().sum(-1),
            torch.ones(2, *attention.log_attention.shape[1:2]),
        )


def attending_to(*tokens: int) -> RecordedAttention:
    """Return attention that is the same everywhere: all of it on some of the query tokens."""
    attention = RecordedAttention()
    probability = torch.full((1, WIDTH**2, TOKENS), 1e-9)
    probability[..., [TOKENS - NUM_QUERY_TOKENS + token for token in tokens]] = 1 / len(tokens)
    attention.log_attention = probability.log()
    return attention


def slots(mention: int, side: int) -> torch.Tensor:
    """Return one mentioned thing in the middle, and two that are not mentioned."""
    return torch.tensor(
        [[[0.5, 0.5, 0.2, mention, side], *[[0.5, 0.5, 0.2, NO_SLOT, NO_SLOT]] * 2]]
    )


@pytest.mark.parametrize(
    ("tokens", "mention", "side", "loss"),
    [
        ((0,), 0, 0, 0.0),
        ((0, 1), 0, 0, math.log(2)),
        ((0, TOP), 0, TOP, 0.0),
        ((0, 1, TOP, BOTTOM), 0, TOP, math.log(2)),
        ((1,), 0, 0, -math.log(1e-9)),
        ((1,), NO_SLOT, NO_SLOT, 0.0),
    ],
)
def test_the_loss_is_minus_log_attention_on_the_tokens_of_a_thing(tokens, mention, side, loss):
    found = attention_loss([attending_to(*tokens)], slots(mention, side))
    assert found.item() == pytest.approx(loss, abs=1e-4)


def test_only_pixels_of_the_thing_get_a_gradient():
    attention = attending_to(1)
    attention.log_attention.requires_grad_(True)
    attention_loss([attention], slots(0, 0)).backward()
    has_gradient = attention.log_attention.grad[0].abs().sum(1).view(WIDTH, WIDTH) > 0
    assert has_gradient[3:5, 3:5].all()
    assert not has_gradient[[0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert 8 <= has_gradient.sum() <= 24

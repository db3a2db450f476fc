"""Attention that is watched is diffusers' own, and is taught to look at the tokens of things."""

import math

import pytest
import torch

from recipes.bundled_teacher.looking import WatchedAttention, looking_loss, watch
from recipes.bundled_teacher.places import ASKED, PLACES, UNTOLD
from tests.tiny import tiny_unet

TOKENS, ACROSS = ASKED + 6, 8
TOP, BOTTOM = PLACES.index("top"), PLACES.index("bottom")


def test_a_watched_network_gives_what_diffusers_gives():
    torch.manual_seed(0)
    unet = tiny_unet().eval()
    x, t, text = torch.randn(2, 4, 8, 8), torch.tensor([9, 700]), torch.randn(2, TOKENS, 16)
    with torch.no_grad():
        before = unet(x, t, text, return_dict=False)[0]
        watched = watch(unet)
        torch.testing.assert_close(unet(x, t, text, return_dict=False)[0], before)
    assert len(watched) == sum(name.endswith("attn2") for name, _ in unet.named_modules()) > 1
    for attention in watched:
        torch.testing.assert_close(
            attention.seen.exp().sum(-1), torch.ones(2, *attention.seen.shape[1:2])
        )


def looking_at(*tokens: int) -> WatchedAttention:
    """Return attention that is the same everywhere: all on some of the tokens that are asked."""
    attention = WatchedAttention()
    share = torch.full((1, ACROSS**2, TOKENS), 1e-9)
    share[..., [TOKENS - ASKED + token for token in tokens]] = 1 / len(tokens)
    attention.seen = share.log()
    return attention


def places(mention: int, side: int) -> torch.Tensor:
    """Return one told thing in the middle, and two of which nothing is said."""
    return torch.tensor([[[0.5, 0.5, 0.2, mention, side], *[[0.5, 0.5, 0.2, UNTOLD, UNTOLD]] * 2]])


@pytest.mark.parametrize(
    ("tokens", "mention", "side", "loss"),
    [
        ((0,), 0, 0, 0.0),
        ((0, 1), 0, 0, math.log(2)),
        ((0, TOP), 0, TOP, 0.0),
        ((0, 1, TOP, BOTTOM), 0, TOP, math.log(2)),
        ((1,), 0, 0, -math.log(1e-9)),
        ((1,), UNTOLD, UNTOLD, 0.0),
    ],
)
def test_the_loss_is_what_is_looked_past_the_tokens_of_a_thing(tokens, mention, side, loss):
    told = looking_loss([looking_at(*tokens)], places(mention, side))
    assert told.item() == pytest.approx(loss, abs=1e-4)


def test_only_pixels_of_the_thing_are_taught():
    attention = looking_at(1)
    attention.seen.requires_grad_(True)
    looking_loss([attention], places(0, 0)).backward()
    taught = attention.seen.grad[0].abs().sum(1).view(ACROSS, ACROSS) > 0
    assert taught[3:5, 3:5].all()
    assert not taught[[0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert 8 <= taught.sum() <= 24

"""Teach the denoiser's attention where to look: a pixel at the token of the thing it belongs to."""

# diffusers hands out its layers without types
# pyright: reportOptionalCall=false, reportOptionalSubscript=false

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor

from recipes.bundled_teacher.places import ASKED


class WatchedAttention:
    """Cross-attention as diffusers computes it, of whose first head the log probabilities are kept.

    `seen` is [batch, pixel, token].
    """

    seen: Tensor

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        told = attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        query, key, value = (
            part.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for part in (attn.to_q(hidden_states), *told)
        )
        scores = attn.scale * query @ key.transpose(-1, -2)
        self.seen = scores[:, 0].float().log_softmax(dim=-1)
        heard = (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](heard))


def watch(unet: UNet2DConditionModel) -> list[WatchedAttention]:
    """Watch every cross-attention of a UNet."""
    watched = []
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            watched.append(WatchedAttention())
            module.set_processor(watched[-1])
    return watched


def looking_loss(watched: list[WatchedAttention], places: Tensor) -> Tensor:
    """Return how far pixels of things are from looking at the tokens that tell of them.

    It is the mean of -log of the attention on them. `places` is [batch, thing, 5], as `told_places`
    gives them. Where noise hides the things, it teaches where they are likely to be.
    """
    x, y, radius = places[..., :3].unbind(-1)
    mention, side = places[..., 3:].long().unbind(-1)
    losses = []
    for attention in watched:
        across = round(attention.seen.shape[1] ** 0.5)
        centres = (torch.arange(across) + 0.5) / across
        away = torch.hypot(centres[None, None, None] - x[..., None, None],
                           centres[None, None, :, None] - y[..., None, None])  # fmt: skip
        inside = (away < radius[..., None, None] + 0.5 / across).float().flatten(2)
        inside = inside * (mention >= 0)[..., None]
        first = attention.seen.shape[2] - ASKED
        by_place = attention.seen[:, :, first:].transpose(1, 2)  # [batch, place, pixel]
        on_mention, on_side = (
            by_place.gather(1, place.clamp(min=0)[..., None].expand(-1, -1, across**2))
            for place in (mention, side)
        )
        looked = torch.where(
            (mention == side)[..., None], on_mention, on_mention.logaddexp(on_side)
        )
        losses.append(-(inside * looked).sum() / inside.sum().clamp(min=1))
    return torch.stack(losses).mean()

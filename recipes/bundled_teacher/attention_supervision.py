"""Supervise the denoiser's cross-attention: pixels of a thing attend to the tokens about it."""

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor

from recipes.bundled_teacher.slots import NUM_QUERY_TOKENS


class RecordedAttention:
    """Cross-attention as diffusers computes it, which keeps its first head's log probabilities.

    `log_attention` is [batch, pixel, token].
    """

    log_attention: Tensor

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for part in (
                attn.to_q(hidden_states),
                attn.to_k(encoder_hidden_states),
                attn.to_v(encoder_hidden_states),
            )
        )
        scores = attn.scale * query @ key.transpose(-1, -2)
        self.log_attention = scores[:, 0].float().log_softmax(dim=-1)
        attended = (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](attended))


def record_cross_attention(unet: UNet2DConditionModel) -> list[RecordedAttention]:
    """Record every cross-attention of a UNet."""
    recorded = []
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            recorded.append(RecordedAttention())
            module.set_processor(recorded[-1])
    return recorded


def attention_loss(recorded: list[RecordedAttention], slots: Tensor) -> Tensor:
    """Return the mean of -log of the attention of things' pixels on the tokens that describe them.

    `slots` is [batch, thing, 5], see `slots_of_things`. Where noise hides the things, the loss
    teaches where they are likely to be.
    """
    x, y, radius = slots[..., :3].unbind(-1)
    mention, side = slots[..., 3:].long().unbind(-1)
    losses = []
    for attention in recorded:
        width = round(attention.log_attention.shape[1] ** 0.5)
        centres = (torch.arange(width) + 0.5) / width
        distance = torch.hypot(centres[None, None, None] - x[..., None, None],
                               centres[None, None, :, None] - y[..., None, None])  # fmt: skip
        inside = (distance < radius[..., None, None] + 0.5 / width).float().flatten(2)
        inside = inside * (mention >= 0)[..., None]
        first = attention.log_attention.shape[2] - NUM_QUERY_TOKENS
        by_slot = attention.log_attention[:, :, first:].transpose(1, 2)  # [batch, slot, pixel]
        on_mention, on_side = (
            by_slot.gather(1, slot.clamp(min=0)[..., None].expand(-1, -1, width**2))
            for slot in (mention, side)
        )
        log_attention = torch.where(
            (mention == side)[..., None], on_mention, on_mention.logaddexp(on_side)
        )
        losses.append(-(inside * log_attention).sum() / inside.sum().clamp(min=1))
    return torch.stack(losses).mean()

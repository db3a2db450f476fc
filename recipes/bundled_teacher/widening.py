"""Widen a trained UNet, changing what it computes as little as possible, to train it further.

Source: Chen et al. 2016, "Net2Net", arXiv:1511.05641, section 2.2.
"""

import re

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

TIME_INPUT = "time_embedding.linear_1.weight"
JOINED = re.compile(
    r"up_blocks\.(\d+)\.resnets\.(\d+)\.(norm1\.|conv1\.weight|conv_shortcut\.weight)"
)
"""The weights that read features of the level below beside those of a skip connection."""


@torch.no_grad()
def widen(narrow: UNet2DConditionModel, wide: UNet2DConditionModel, seed: int = 0) -> None:
    """Set the weights of `wide` from those of `narrow`, whose levels have fewer channels.

    Features are repeated beside themselves, within their group and their attention head. A weight
    that reads a repeated feature is split among its copies in random parts, so that they can learn
    to differ. If every level is doubled, the function stays the same; otherwise it is the same but
    for the normalisations, in which repeated features weigh more.
    """
    generator = torch.Generator().manual_seed(seed)
    trained = narrow.state_dict()
    for name, target in wide.state_dict().items():
        weight = trained[name]
        if name == TIME_INPUT:
            weight = spread_frequencies(weight, target.shape[1])
        elif weight.ndim > 1:
            old, new = joined_parts(name, narrow, wide) or ([weight.shape[1]], [target.shape[1]])
            weight = split_inputs(weight, repeats(old, new), generator)
        old, new = [weight.shape[0]], [target.shape[0]]
        if weight.ndim == 1:
            old, new = joined_parts(name, narrow, wide) or (old, new)
        index = repeats(old, new)
        if name.endswith("to_q.weight"):  # keys are repeated: the queries are what is split
            weight = split_inputs(weight.T, index, generator).T
            weight = weight * (target.shape[0] / trained[name].shape[0]) ** 0.5
        else:
            weight = weight[index]
        target.copy_(weight)


def repeats(old: list[int], new: list[int]) -> Tensor:
    """Return, for each new feature, the old one that it repeats, part by part.

    >>> repeats([2, 2], [4, 3]).tolist()
    [0, 0, 1, 1, 2, 2, 3]
    """
    starts = [sum(old[:i]) for i in range(len(old))]
    parts = zip(starts, old, new, strict=True)
    return torch.cat([start + torch.arange(n) * size // n for start, size, n in parts])


def split_inputs(weight: Tensor, index: Tensor, generator: torch.Generator) -> Tensor:
    """Return weights [out, new, *] for repeated inputs; over the copies they sum to [out, old, *].

    The parts are random, between 1/4 and 3/4 of the mean part of two copies.
    """
    parts = 0.5 + torch.rand(weight.shape[0], len(index), generator=generator)
    sums = torch.zeros(weight.shape[:2]).index_add_(1, index, parts)
    parts = parts / sums[:, index]
    return weight[:, index] * parts.view(*parts.shape, *[1] * (weight.ndim - 2))


def spread_frequencies(weight: Tensor, size: int) -> Tensor:
    """Return weights for `size` sinusoids of time, of which the trained ones are every n-th."""
    wider = weight.new_zeros(weight.shape[0], size)
    wider[:, :: size // weight.shape[1]] = weight
    return wider


def joined_parts(
    name: str, narrow: UNet2DConditionModel, wide: UNet2DConditionModel
) -> tuple[list[int], list[int]] | None:
    """Return the channels that a weight of an up block reads, old and new: hidden, then skipped."""
    if not (match := JOINED.match(name)):
        return None
    block, layer = int(match[1]), int(match[2])
    last = narrow.config.layers_per_block
    level = len(narrow.config.block_out_channels) - 1 - block
    hidden = level + 1 if layer == 0 and block else level
    skipped = level - 1 if layer == last and level else level
    old, new = narrow.config.block_out_channels, wide.config.block_out_channels
    return [old[hidden], old[skipped]], [new[hidden], new[skipped]]

"""Prompts of different lengths in one batch: the shorter are padded, and a mask leaves that out."""

from collections.abc import Sequence

import torch
from torch.nn.functional import pad

from fewstep.types import Conditioning

MASK = "mask"
"""The entry [batch, tokens] of a conditioning that is true for a prompt's tokens and false for what
pads it, which no network may look at. A conditioning without it is never padded."""


def padded(*conds: Conditioning) -> list[Conditioning]:
    """Pad the tokens of conditionings that have a mask to the most that one of them has."""
    if not all(MASK in cond for cond in conds):
        return list(conds)
    longest = max(cond[MASK].shape[1] for cond in conds)
    return [_resized(cond, longest) for cond in conds]


def joined(conds: Sequence[Conditioning]) -> Conditioning:
    """Return the rows of several conditionings of one model as one batch."""
    conds = padded(*conds)
    return {name: torch.cat([cond[name] for cond in conds]) for name in conds[0]}


def without_padding(cond: Conditioning) -> Conditioning:
    """Return a conditioning as short as the longest prompt in it."""
    if MASK not in cond:
        return cond
    return _resized(cond, int(cond[MASK].sum(1).max()))


def _resized(cond: Conditioning, length: int) -> Conditioning:
    """Cut or pad the tokens of every entry that has one value, or vector, a token."""
    missing, shape = length - cond[MASK].shape[1], cond[MASK].shape
    if not missing:
        return cond
    return {
        name: pad(value, (0, 0) * (value.ndim - 2) + (0, missing))
        if value.shape[:2] == shape
        else value
        for name, value in cond.items()
    }

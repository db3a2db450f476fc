"""What each sample of a run shows: a function of the seed and the sample's number alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import TypeVar

import torch
from torch import Tensor

from fewstep.diffusion.random import generator

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Shuffled:
    """Every epoch shows every pair once, in an order of its own.

    The `parts` in which pairs are stored are shuffled, and go one after another through a shuffle
    buffer of `buffer` pairs, so that reading stays local; a dataset that fits into it is shuffled
    as a whole.
    """

    parts: tuple[int, ...]
    seed: int
    buffer: int

    @cached_property
    def length(self) -> int:
        """How many pairs there are: the samples of an epoch."""
        return sum(self.parts)

    def pair(self, sample: int) -> int:
        """Return the pair that this sample of the run shows."""
        return self.at(*divmod(sample, self.length))

    def at(self, epoch: int, place: int) -> int:
        """Return the pair at a place of an epoch."""
        window, inside = divmod(place, self.buffer)
        first = window * self.buffer
        size = min(self.buffer, self.length - first)
        place = first + int(_permutation(self.seed, "window", epoch, window, size)[inside])
        if self.length <= self.buffer:
            return place
        ends, starts = _shuffled_parts(self, epoch)
        part = int(torch.searchsorted(ends, place, right=True))
        return int(starts[part]) + place - (int(ends[part - 1]) if part else 0)


@dataclass(frozen=True)
class Bucketed:
    """An order in which every `group` samples, a step's batch, are of one bucket.

    An epoch shows the groups of all buckets in an order of its own; a bucket's last group is
    filled up from the bucket's beginning.
    """

    bucket: Tensor
    group: int
    seed: int
    buffer: int

    @cached_property
    def members(self) -> list[Tensor]:
        """The pairs of each bucket."""
        return [torch.nonzero(self.bucket == b).flatten() for b in self.bucket.unique().tolist()]

    @cached_property
    def ends(self) -> list[int]:
        """How many groups there are up to each bucket's last."""
        return list(accumulate(-(-len(members) // self.group) for members in self.members))

    def pair(self, sample: int) -> int:
        """Return the pair that this sample of the run shows."""
        step, place = divmod(sample, self.group)
        epoch, slot = divmod(step, self.ends[-1])
        group = int(_permutation(self.seed, "groups", epoch, 0, self.ends[-1])[slot])
        which = next(i for i, end in enumerate(self.ends) if group < end)
        members = self.members[which]
        group -= self.ends[which - 1] if which else 0
        inside = Shuffled((len(members),), self.seed + which, self.buffer)
        return int(members[inside.at(epoch, (group * self.group + place) % len(members))])


Order = Shuffled | Bucketed


def ordered(
    parts: Sequence[int], seed: int, buffer: int, bucket: Tensor | None = None, group: int = 1
) -> Order:
    """Return the order of pairs in `parts`; with several buckets each `group` is of one."""
    if bucket is None or len(bucket.unique()) == 1:
        return Shuffled(tuple(parts), seed, buffer)
    return Bucketed(bucket, group, seed, buffer)


@lru_cache(maxsize=8)
def _permutation(seed: int, what: str, epoch: int, number: int, length: int) -> Tensor:
    return torch.randperm(length, generator=generator(seed, "order", what, epoch, number))


@lru_cache(maxsize=2)
def _shuffled_parts(order: Shuffled, epoch: int) -> tuple[Tensor, Tensor]:
    """Return where each part ends in the epoch, and with which pair it starts."""
    sizes = torch.tensor(order.parts)
    chosen = _permutation(order.seed, "parts", epoch, 0, len(sizes))
    starts = sizes.cumsum(0) - sizes
    return sizes[chosen].cumsum(0), starts[chosen]


def choose(
    seed: int, sample: int, captions: Sequence[T], num_views: int, caption_dropout: float
) -> tuple[T | None, int, torch.Generator]:
    """Return a sample's caption (None: dropped), its view (1: mirrored), and its noise to come."""
    noise = generator(seed, "x_0", sample)
    dropped, caption, view = torch.rand(3, generator=noise).tolist()
    chosen = None if dropped < caption_dropout else captions[int(caption * len(captions))]
    return chosen, int(view * num_views), noise


def draw_x_0(mean: Tensor, std: Tensor, noise: torch.Generator) -> Tensor:
    """Draw the latents of an image from their posterior."""
    return mean + std * torch.randn(mean.shape, generator=noise)

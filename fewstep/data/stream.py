"""Pairs encoded at each step, for sets that are too large to be encoded before."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from fewstep.data.choice import Choice
from fewstep.data.encoding import Encoded, EncodePrompts
from fewstep.data.errors import DataError, ImageError
from fewstep.data.loader import Reader
from fewstep.data.order import Order
from fewstep.data.pairs import Pairs
from fewstep.methods.base import Batch
from fewstep.types import Conditioning

EncodeViews = Callable[[Sequence[Tensor]], Encoded]
"""Encode the views of one image, each by itself, so that no result depends on a batch."""


@dataclass(frozen=True)
class Read:
    """What a loader process has read for a batch; the networks have still to see it."""

    samples: tuple[int, ...]
    images: tuple[Tensor, ...]
    captions: tuple[tuple[str, ...], ...]
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class Stream:
    """Pairs in the order of a run; latents and texts are those that a cache would hold.

    An image that cannot be used is replaced by the next pair's that can, and told to `tell`, each
    time anew.
    """

    pairs: Pairs
    order: Order
    encode_views: EncodeViews
    encode_prompts: EncodePrompts
    seed: int
    num_views: int = 1
    caption_dropout: float = 0.0
    tell: Callable[[str], None] = lambda reason: None

    def __len__(self) -> int:
        return len(self.pairs)

    @cached_property
    def uncond(self) -> Conditioning:
        """The empty prompt's conditioning, one row."""
        return self.encode_prompts([""])

    @property
    def reader(self) -> Reader:
        """What a loader process does: it reads images and captions, and asks no network."""
        return partial(read_pairs, self.pairs, self.order)

    def batch(self, read: Read) -> Batch:
        """Encode what was read."""
        for reason in read.skipped:
            self.tell(reason)
        x_0, texts = [], []
        for sample, image, captions in zip(read.samples, read.images, read.captions, strict=True):
            choice = Choice.of(
                self.seed, sample, len(captions), self.num_views, self.caption_dropout
            )
            mean, std = self.encode_views([views_of(image, self.num_views)[choice.view]])
            x_0.append(choice.x_0(mean[0], std[0]))
            texts.append("" if choice.is_dropped else captions[choice.caption])
        return Batch(torch.stack(x_0), self.encode_prompts(texts))


def read_pairs(pairs: Pairs, order: Order, samples: Sequence[int]) -> Read:
    """Read the samples with these numbers in the whole run."""
    images, captions, skipped = [], [], []
    for sample in samples:
        number, image = _usable(pairs, order.pair(sample), skipped)
        images.append(image)
        captions.append(pairs.captions(number))
    return Read(tuple(samples), tuple(images), tuple(captions), tuple(skipped))


def _usable(pairs: Pairs, number: int, skipped: list[str]) -> tuple[int, Tensor]:
    for candidate in range(number, number + len(pairs)):
        try:
            return candidate % len(pairs), pairs.image(candidate % len(pairs))
        except ImageError as error:
            skipped.append(str(error))
    raise DataError("none of the images can be used; fewstep data check lists why")


def views_of(image: Tensor, num_views: int) -> list[Tensor]:
    """Return an image, and its mirror image where there are two views."""
    return [image, image.flip(-1)][:num_views]


def encode_views(encode_images: Callable[[Tensor], Encoded], views: Sequence[Tensor]) -> Encoded:
    """Return the latents of each view, encoded by itself, in fp32 on the CPU."""
    halves = [encode_images(view[None]) for view in views]
    mean, std = (torch.cat([half[i] for half in halves]).float().cpu() for i in (0, 1))
    return mean.contiguous(), std.contiguous()

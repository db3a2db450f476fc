"""Pairs encoded at each step, for datasets too large to be encoded before, and what they skip."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from fewstep.data.base import DataError, ImageError
from fewstep.data.encode import (
    Encoded,
    EncodePrompts,
    check_skipped,
    encode_views,
    one_line,
    views_of,
)
from fewstep.data.loader import Reader
from fewstep.data.order import Order, choose, draw_x_0
from fewstep.data.pairs import Pairs
from fewstep.distributed import ALONE, Processes
from fewstep.methods.base import Batch
from fewstep.types import Conditioning


@dataclass(frozen=True)
class Read:
    """What a loader process has read for a batch, before any network encodes it."""

    samples: Sequence[int]
    images: Sequence[Tensor]
    captions: Sequence[tuple[str, ...]]
    skipped: Sequence[str]


@dataclass(frozen=True)
class Stream:
    """Pairs in the order of a run; latents and texts are those that a cache would hold.

    An image that cannot be used is replaced by the next pair that can, and reported to
    `on_skipped` each time.
    """

    pairs: Pairs
    order: Order
    encode_images: Callable[[Tensor], Encoded]
    encode_prompts: EncodePrompts
    seed: int
    num_views: int = 1
    caption_dropout: float = 0.0
    on_skipped: Callable[[str], None] = lambda reason: None

    def __len__(self) -> int:
        return len(self.pairs)

    @cached_property
    def uncond(self) -> Conditioning:
        """The empty prompt's conditioning, one row."""
        return self.encode_prompts([""])

    @property
    def reader(self) -> Reader:
        return partial(read_pairs, self.pairs, self.order)

    def batch(self, read: Read) -> Batch:
        """Encode what was read."""
        for reason in read.skipped:
            self.on_skipped(reason)
        x_0, texts = [], []
        for sample, image, captions in zip(read.samples, read.images, read.captions, strict=True):
            caption, view, noise = choose(
                self.seed, sample, captions, self.num_views, self.caption_dropout
            )
            mean, std = encode_views(self.encode_images, [views_of(image, self.num_views)[view]])
            x_0.append(draw_x_0(mean[0], std[0], noise))
            texts.append(caption or "")
        return Batch(torch.stack(x_0), self.encode_prompts(texts))


def read_pairs(pairs: Pairs, order: Order, samples: Sequence[int]) -> Read:
    """Read the samples with these numbers in the run; loader processes call it."""
    images, captions, skipped = [], [], []
    for sample in samples:
        number, image = _usable(pairs, order.pair(sample), skipped)
        images.append(image)
        captions.append(pairs.captions(number))
    return Read(tuple(samples), images, captions, skipped)


def _usable(pairs: Pairs, number: int, skipped: list[str]) -> tuple[int, Tensor]:
    for candidate in range(number, number + len(pairs)):
        try:
            return candidate % len(pairs), pairs.image(candidate % len(pairs))
        except ImageError as error:
            skipped.append(str(error))
    raise DataError("none of the images can be used; fewstep data check lists why")


class Skipped:
    """The list, in `path`, of images that a stream leaves out; a resumed run continues it.

    More than `limit` of them end the run, in every process at the same step.
    """

    def __init__(self, path: Path, limit: float, processes: Processes = ALONE) -> None:
        self.path, self.limit, self.processes = path, limit, processes
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.listed, self.new = dict.fromkeys(lines), []

    def add(self, reason: str) -> None:
        """Note what this process has left out in a step."""
        self.new.append(one_line(reason))

    def settle(self) -> None:
        """List and count what all processes have left out; each calls it after each step.

        Raises:
            DataError: once there are more than the limit.
        """
        if not self.processes.all_reduce_max(len(self.new)):
            return
        gathered, self.new = self.processes.gather_lines(self.new), []
        new = [line for line in dict.fromkeys(gathered) if line not in self.listed]
        self.listed |= dict.fromkeys(new)
        if self.processes.is_main:
            with open(self.path, "a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in new)
        check_skipped(self.listed, self.limit)

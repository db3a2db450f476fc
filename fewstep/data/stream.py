"""Pairs encoded at each step, for datasets too large to be encoded before, and what they skip."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from fewstep.data.base import ImageError
from fewstep.data.encode import check_skipped, encode_views, one_line
from fewstep.data.loader import Reader
from fewstep.data.order import Order, choose, draw_x_0
from fewstep.data.pairs import Pairs
from fewstep.distributed import ALONE, Processes
from fewstep.errors import DataError
from fewstep.files import writing
from fewstep.methods.base import Batch
from fewstep.models.base import ModelFamily
from fewstep.types import Conditioning

Read = tuple[list[tuple[int, Tensor, tuple[str, ...]]], list[str]]
"""Sample, image and captions of each row of a batch, and why other images were skipped."""


@dataclass(frozen=True)
class Stream:
    """Pairs in the order of a run; latents and texts are those that a cache would hold.

    An image that cannot be used is replaced by the next pair's, and reported to `on_skipped`.
    """

    pairs: Pairs
    order: Order
    family: ModelFamily
    seed: int
    num_views: int
    caption_dropout: float
    on_skipped: Callable[[str], None]

    def __len__(self) -> int:
        return len(self.pairs)

    @cached_property
    def uncond(self) -> Conditioning:
        """The empty prompt's conditioning, one row of each tensor."""
        return self.family.encode_prompts([""])

    @property
    def reader(self) -> Reader:
        """The function that reads images and captions; it needs no network."""
        return partial(read_pairs, self.pairs, self.order)

    def batch(self, read: Read) -> Batch:
        """Encode what was read."""
        rows, skipped = read
        for reason in skipped:
            self.on_skipped(reason)
        x_0, texts = [], []
        for sample, image, captions in rows:
            caption, view, noise = choose(
                self.seed, sample, captions, self.num_views, self.caption_dropout
            )
            mean, std = encode_views(self.family.encode_images, image, [view])
            x_0.append(draw_x_0(mean[0], std[0], noise))
            texts.append(caption or "")
        return Batch(torch.stack(x_0), self.family.encode_prompts(texts))

    def caption_of(self, sample: int) -> str:
        """Return the caption that a sample of the run shows; the empty one where it is dropped."""
        (((_, _, captions),), _) = self.reader([sample])
        return choose(self.seed, sample, captions, self.num_views, self.caption_dropout)[0] or ""


def read_pairs(pairs: Pairs, order: Order, samples: Sequence[int]) -> Read:
    """Read the samples with these numbers in the run, in a loader process if there are any."""
    rows, skipped = [], []
    for sample in samples:
        first = order.pair(sample)
        for number in (*range(first, len(pairs)), *range(first)):
            try:
                rows.append((sample, pairs.image(number), pairs.captions(number)))
                break
            except ImageError as error:
                skipped.append(str(error))
        else:
            raise DataError("none of the images can be used; fewstep data check lists why")
    return rows, skipped


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
        """List what all processes have left out, after each step; raise a DataError if too many."""
        if not self.processes.all_reduce_max(len(self.new)):
            return
        gathered, self.new = self.processes.gather_lines(self.new), []
        new = [line for line in dict.fromkeys(gathered) if line not in self.listed]
        self.listed |= dict.fromkeys(new)
        if self.processes.is_main:
            with writing(self.path), open(self.path, "a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in new)
        check_skipped(list(self.listed), self.limit)

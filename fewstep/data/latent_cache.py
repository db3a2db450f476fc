"""Latents and text embeddings, encoded once: after this, training needs one network only."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from fewstep.data.choice import Choice
from fewstep.data.errors import DataError
from fewstep.data.loader import Reader
from fewstep.data.order import Order, ordered
from fewstep.data.tensor_file import read_about, tensor_file
from fewstep.methods.base import Batch
from fewstep.types import Conditioning

FINGERPRINT, INDEX = "cache.json", "index.safetensors"
SHARD = 1024
"""Pairs, or prompts, in a file."""


def shard_file(folder: Path, what: str, number: int) -> Path:
    """Return the path of the shard "latents" or "text" with this number."""
    return folder / f"{what}-{number:06d}.safetensors"


@dataclass(frozen=True)
class LatentCache:
    """The cache in `folder`, read from the disk sample by sample; in memory is its index alone.

    Pair i is row `row[i]` of the latents of size `sizes[size[i]]` in shard `shard[i]`; its captions
    are those from `first[i]` to `first[i + 1]` in `caption`, numbers of rows of text. Row 0 of the
    text is the empty prompt's.
    """

    folder: Path
    shard: Tensor
    size: Tensor
    row: Tensor
    first: Tensor
    caption: Tensor
    sizes: tuple[str, ...]
    num_views: int
    order: Order
    seed: int
    caption_dropout: float = 0.0

    def __len__(self) -> int:
        return len(self.row)

    @cached_property
    def uncond(self) -> Conditioning:
        """The empty prompt's conditioning, one row."""
        return {name: row[None] for name, row in self._text(0).items()}

    @property
    def reader(self) -> Reader:
        return self.read

    def batch(self, read: Batch) -> Batch:
        return read

    def read(self, samples: Sequence[int]) -> Batch:
        """Return the samples with these numbers in the whole run; it has no other state.

        x_0 is drawn from its posterior, and a caption is dropped with probability
        `caption_dropout`.
        """
        x_0, texts = [], []
        for sample in samples:
            pair = self.order.pair(sample)
            captions = self.caption[self.first[pair] : self.first[pair + 1]].tolist()
            choice = Choice.of(
                self.seed, sample, len(captions), self.num_views, self.caption_dropout
            )
            mean, std = self._latents(pair)
            x_0.append(choice.x_0(mean[choice.view], std[choice.view]))
            texts.append(self._text(0 if choice.is_dropped else captions[choice.caption]))
        cond = {name: torch.stack([text[name] for text in texts]) for name in texts[0]}
        return Batch(torch.stack(x_0), cond)

    def _latents(self, pair: int) -> tuple[Tensor, Tensor]:
        file = tensor_file(shard_file(self.folder, "latents", int(self.shard[pair])))
        size, row = self.sizes[int(self.size[pair])], int(self.row[pair])
        return file.row(f"mean.{size}", row), file.row(f"std.{size}", row)

    def _text(self, number: int) -> Conditioning:
        shard, row = divmod(number, SHARD)
        file = tensor_file(shard_file(self.folder, "text", shard))
        return {name: file.row(name, row) for name in file.table}


def open_cache(
    folder: Path,
    seed: int,
    caption_dropout: float = 0.0,
    shuffle_buffer: int = 65536,
    group: int = 1,
) -> LatentCache:
    """Open a folder that `prepare` has filled.

    Every `group` samples, a step's batch, have latents of one size.

    Raises:
        DataError: if it is not there, or not filled to its end.
    """
    path = folder / INDEX
    if not path.is_file():
        raise DataError(f"{folder} is not filled to its end; run fewstep prepare")
    about, columns = read_about(path), load_file(path)
    return LatentCache(
        folder=folder,
        **columns,
        sizes=tuple(about["sizes"]),
        num_views=about["num_views"],
        order=ordered(
            columns["shard"].unique_consecutive(return_counts=True)[1].tolist(),
            seed,
            shuffle_buffer,
            columns["size"],
            group,
        ),
        seed=seed,
        caption_dropout=caption_dropout,
    )

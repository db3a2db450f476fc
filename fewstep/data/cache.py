"""Latents and text embeddings, encoded once: after this, training needs one network only.

Rows are read from the disk one at a time. Were the files mapped into memory, what was once read
would count as memory of the process; this way 100 million pairs take no more than a thousand.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from fewstep.data.loader import Reader
from fewstep.data.order import Order, choose, draw_x_0, ordered
from fewstep.diffusion.conditioning import joined, without_padding
from fewstep.errors import DataError
from fewstep.methods.base import Batch
from fewstep.types import Conditioning

FINGERPRINT, INDEX = "cache.json", "index.safetensors"
SHARD = 1024
"""Pairs, or prompts, in a file."""

DTYPES = {"BOOL": torch.bool, "I64": torch.int64,
          "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # fmt: skip


def shard_file(folder: Path, what: str, number: int) -> Path:
    """Return the path of the shard "latents" or "text" with this number."""
    return folder / f"{what}-{number:06d}.safetensors"


@dataclass(frozen=True)
class LatentCache:
    """The cache in `folder`, read sample by sample; its index alone is in memory.

    Pair i is row `row[i]` of the latents of size `sizes[size[i]]` in shard `shard[i]`; its captions
    are those from `first[i]` to `first[i + 1]` in `caption`, numbers of rows of text. Row 0 of the
    text is the empty prompt's. With `latent_shape` there are prompts alone.
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
    latent_shape: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.row)

    @cached_property
    def uncond(self) -> Conditioning:
        """The empty prompt's conditioning, one row of each tensor."""
        return self._text(0)

    @property
    def reader(self) -> Reader:
        """`read`: it needs no network, and may run in loader processes."""
        return self.read

    def batch(self, read: Batch) -> Batch:
        """Return what was read as it is: it is encoded already."""
        return read

    def read(self, samples: Sequence[int]) -> Batch:
        """Return the samples with these numbers in the run: x_0 drawn, some captions dropped."""
        x_0, texts = [], []
        for sample in samples:
            pair = self.order.pair(sample)
            captions = self.caption[self.first[pair] : self.first[pair + 1]].tolist()
            caption, view, noise = choose(
                self.seed, sample, captions, self.num_views, self.caption_dropout
            )
            mean, std = self._latents(pair)
            x_0.append(draw_x_0(mean[view], std[view], noise))
            texts.append(self._text(caption or 0))
        cond = joined(texts)
        if self.latent_shape is not None:
            shape = torch.zeros(self.latent_shape).expand(len(texts), *self.latent_shape)
            return Batch(shape, cond, has_latents=False)
        return Batch(torch.stack(x_0), cond)

    def caption_of(self, sample: int) -> str:
        """Return the caption that a sample of the run shows; the empty one where it is dropped."""
        pair = self.order.pair(sample)
        shard = int(self.shard[pair])
        place = pair - int(torch.searchsorted(self.shard, shard))
        captions = read_about(shard_file(self.folder, "latents", shard))["captions"][place]
        return choose(self.seed, sample, captions, self.num_views, self.caption_dropout)[0] or ""

    def _latents(self, pair: int) -> tuple[Tensor, Tensor]:
        file = tensor_file(shard_file(self.folder, "latents", int(self.shard[pair])))
        size, row = self.sizes[int(self.size[pair])], int(self.row[pair])
        return file.row(f"mean.{size}", row), file.row(f"std.{size}", row)

    def _text(self, number: int) -> Conditioning:
        """Return one row of text, without what pads it to the longest in its file."""
        shard, row = divmod(number, SHARD)
        file = tensor_file(shard_file(self.folder, "text", shard))
        return without_padding({name: file.row(name, row)[None] for name in file.tensors})


def open_cache(
    folder: Path,
    seed: int,
    caption_dropout: float = 0.0,
    shuffle_buffer: int = 65536,
    group: int = 1,
) -> LatentCache:
    """Open a cache, or raise a DataError if it is not complete.

    Every `group` samples, a step's batch, have latents of one size.
    """
    path = folder / INDEX
    if not path.is_file():
        raise DataError(f"{folder} is not complete; run fewstep prepare")
    about, columns = read_about(path), load_file(path)
    parts = columns["shard"].unique_consecutive(return_counts=True)[1].tolist()
    order = ordered(parts, seed, shuffle_buffer, columns["size"], group)
    about = {"sizes": tuple(about["sizes"]), "num_views": about["num_views"]}
    return LatentCache(
        folder, **columns, **about, order=order, seed=seed, caption_dropout=caption_dropout
    )


@dataclass(frozen=True)
class TensorFile:
    """An open safetensors file: what its header holds, and where the tensors begin."""

    file: IO[bytes]
    tensors: dict[str, Any]
    about: dict[str, Any]
    start: int

    def row(self, name: str, number: int) -> Tensor:
        """Read row `number` of the tensor with this name."""
        entry = self.tensors[name]
        dtype, shape = DTYPES[entry["dtype"]], entry["shape"][1:]
        size = prod(shape) * dtype.itemsize
        place = self.start + entry["data_offsets"][0] + number * size
        content = bytearray(os.pread(self.file.fileno(), size, place))
        return torch.frombuffer(content, dtype=dtype).reshape(shape)


def open_tensors(path: Path) -> TensorFile:
    """Open a safetensors file; raise a DataError if it is missing, damaged or cut off."""
    try:
        file = open(path, "rb", buffering=0)  # noqa: SIM115  closed with its last reference
        size = os.fstat(file.fileno()).st_size
        start = 8 + int.from_bytes(file.read(8), "little")
        tensors = json.loads(file.read(start - 8)) if start <= size else {}
        about = json.loads(tensors.pop("__metadata__", {}).get("about", "{}"))
        if start + max((t["data_offsets"][1] for t in tensors.values()), default=0) != size:
            raise ValueError("it is not whole")
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot read {path}: {error}; delete it and run fewstep prepare, which makes it again"
        ) from error
    return TensorFile(file, tensors, about, start)


tensor_file = lru_cache(maxsize=256)(open_tensors)
"""The last files stay open."""


def read_about(path: Path) -> dict[str, Any]:
    """Return the description in a file's header; raise as `open_tensors` does."""
    return open_tensors(path).about

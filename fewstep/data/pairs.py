"""From `data.path` to numbered pairs of image and captions: its kind is found by looking."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fewstep.config import DataSettings
from fewstep.data.base import Captioned, ImageError, Source, digest_of_lines
from fewstep.data.captions import check_left_out, collect, lines_of
from fewstep.data.coco import captions_files, read_coco
from fewstep.data.folders import has_captions, read_folder
from fewstep.data.hf_datasets import check_on_hub, is_hf_dataset, read_hf_dataset
from fewstep.data.images import Framing, as_tensor, buckets_of, decode
from fewstep.data.shards import find_shards, is_shards, read_shards
from fewstep.data.tables import TABLES, find_tables, is_table, read_table, read_tables
from fewstep.diffusion.random import generator
from fewstep.errors import DataError
from fewstep.models.hub import on_the_hub
from fewstep.text import checked
from fewstep.world.captions import describe
from fewstep.world.scenes import Scene, render, sample_scene

BUNDLED_PAIRS, COCO_PAIRS = 4096, 5000
"""How many pairs are used of a larger set where data.num_pairs is not set."""

BUNDLED_STREAM = 1_000_081
"""Keeps these scenes apart from those of the teacher's training and of evaluation."""

HF_SETTINGS = ("split", "image_column", "caption_column")
IMAGE_SETTINGS = ("crop", "buckets", "max_upscale", "captions")
"""Settings that only the `datasets` library uses, and those that only images in files use."""


class Pairs(Captioned, Protocol):
    """Captions with images."""

    def image(self, number: int) -> Tensor:
        """Return the image as [3, height, width] in [0, 1], or raise an ImageError naming it."""
        ...


@dataclass(frozen=True)
class BundledPairs(Pairs):
    """Scenes of the bundled world, drawn when read; pair i is a function of (seed, i)."""

    num_pairs: int
    resolution: int
    seed: int = 0

    @property
    def identity(self) -> str:
        """Number, size and seed of the scenes, and how they are drawn."""
        return f"bundled scenes {BUNDLED_STREAM} {self.num_pairs} {self.resolution} {self.seed}"

    def __len__(self) -> int:
        return self.num_pairs

    def name(self, number: int) -> str:
        """Return the scene's number, in words."""
        return f"scene {number}"

    def captions(self, number: int) -> tuple[str, ...]:
        """Return the scene's one caption."""
        return (describe(*self._scene(number)),)

    def image(self, number: int) -> Tensor:
        """Return the rendered scene, [3, resolution, resolution] in [0, 1]."""
        return as_tensor(render(self._scene(number)[0], self.resolution))

    def _scene(self, number: int) -> tuple[Scene, np.random.Generator]:
        rng = np.random.default_rng([BUNDLED_STREAM, self.seed, number])
        return sample_scene(rng), rng


@dataclass(frozen=True)
class ImagePairs(Pairs):
    """The images of a source, cut to their frames, with the first or all of their captions."""

    source: Source
    framing: Framing
    all_captions: bool = False

    @cached_property
    def identity(self) -> str:
        """The digest of the source and of how its images are cut."""
        frames = f"{astuple(self.framing)} all captions: {self.all_captions}"
        return digest_of_lines([self.source.identity, frames])

    @property
    def parts(self) -> Sequence[int]:
        """How many of the source are stored together, in order."""
        return self.source.parts

    def __len__(self) -> int:
        return len(self.source)

    def name(self, number: int) -> str:
        """Return what the source calls the image."""
        return self.source.name(number)

    def captions(self, number: int) -> tuple[str, ...]:
        """Return the image's first caption, or all."""
        captions = self.source.captions(number)
        return captions if self.all_captions else captions[:1]

    def image(self, number: int) -> Tensor:
        """Return the image in its frame; see `Pairs.image`."""
        try:
            return self.framing.frame(decode(self.source.read(number)), number)
        except ImageError as error:
            raise ImageError(f"{self.name(number)}: {error}") from error


@dataclass(frozen=True)
class Prompts(Captioned):
    """Prompts without images, for which the teacher generates latents.

    Pair i is prompt i with noise number i; after the last prompt the first comes again.
    """

    prompts: tuple[str, ...]
    num_pairs: int
    seed: int = 0

    @property
    def identity(self) -> str:
        """The digest of the prompts, their number and the seed."""
        return digest_of_lines([f"prompts {self.num_pairs} {self.seed}", *self.prompts])

    def __len__(self) -> int:
        return self.num_pairs

    def name(self, number: int) -> str:
        """Return the prompt's line, in words."""
        return f"prompt {number % len(self.prompts) + 1}"

    def captions(self, number: int) -> tuple[str, ...]:
        """Return the prompt."""
        return (self.prompts[number % len(self.prompts)],)


def open_data(
    data: DataSettings, resolution: int, divisor: int = 8, index: Path | None = None
) -> Pairs | Prompts:
    """Return the pairs, or the prompts without images, that the table [data] names.

    The sides of a bucket are multiples of `divisor`; the folder `index` keeps what a scan of tar
    shards found. Raises DataError if the path is of no known kind, its content cannot be used, or
    more than the part `data.max_skipped` of its samples has to be left out.
    """
    if data.path == "bundled":
        _check_unused(data, "images", "exclude", "teacher_steps", *IMAGE_SETTINGS, *HF_SETTINGS)
        return BundledPairs(data.num_pairs or BUNDLED_PAIRS, resolution, data.seed)
    if data.path.endswith(".txt"):
        _check_unused(data, "images", "exclude", "flip", *IMAGE_SETTINGS, *HF_SETTINGS)
        return read_prompts(Path(data.path), data.num_pairs, data.seed)
    _check_unused(data, "teacher_steps")
    source, usual = open_source(data, index)
    check_left_out(source.left_out, len(source), data.max_skipped)
    if not len(source):
        hint = f" that data.exclude = {list(data.exclude)} leaves" if data.exclude else ""
        raise DataError(f"{data.path} holds no sample{hint}; is it the right folder?")
    source = subset(source, data.num_pairs or usual, data.seed)
    buckets = buckets_of(resolution, divisor) if data.buckets else ()
    framing = Framing(resolution, data.crop, data.max_upscale, buckets, data.seed)
    return ImagePairs(source, framing, data.captions == "all")


def open_source(data: DataSettings, index: Path | None = None) -> tuple[Source, int | None]:
    """Return all that can be used at `data.path`, and how many pairs of it are usually used.

    Raises DataError if there is nothing that can be read.
    """
    path, exclude = Path(data.path), data.exclude
    images = Path(data.images) if data.images else None
    if path.suffix == ".json" or (path.is_dir() and captions_files(path)):
        _check_unused(data, *(HF_SETTINGS[1:] if path.is_dir() else HF_SETTINGS))
        return read_coco(path, images, exclude, data.split), COCO_PAIRS
    if is_table(path):
        _check_unused(data, *HF_SETTINGS)
        return read_table(path, images, exclude), None
    has_table = any((path / name).is_file() for name in TABLES)
    may_be_shards = is_shards(data.path) or (path.is_dir() and not has_table)
    if shards := find_shards(data.path) if may_be_shards else ():
        _check_unused(data, "images", *HF_SETTINGS)
        return read_shards(shards, index, exclude), None
    if on_the_hub(data.path) or (not has_table and is_hf_dataset(path, data.image_column)):
        _check_unused(data, "images", "exclude", *(("split",) if path.is_file() else ()))
        return read_hf_dataset(data.path, data.split, data.image_column, data.caption_column), None
    if has_table or (path.is_dir() and find_tables(path) and not has_captions(path)):
        _check_unused(data, "image_column", "caption_column")
        return read_tables(path, data.split, images, exclude), None
    if path.is_dir():
        _check_unused(data, "images", *HF_SETTINGS)
        return read_folder(path, exclude), None
    raise _unknown(data.path)


def check_path(path: str) -> None:
    """Refuse a `data.path` that is neither here nor of the Hub; nothing of it is read.

    Raises:
        DataError: with what it may be.
    """
    if path == "bundled" or Path(path).exists():
        return
    if is_shards(path):
        find_shards(path)
    elif on_the_hub(path):
        check_on_hub(path)
    else:
        raise _unknown(path)


def _unknown(path: str) -> DataError:
    return DataError(
        f"data.path is {path!r}, which is no folder, no captions .json, metadata .jsonl or .csv, "
        "no .parquet, no .tar shards, no .txt of prompts and no Hub id (owner/name, where no "
        "folder 'owner' is here); give one of these, or 'bundled'"
    )


def subset(source: Source, count: int | None, seed: int) -> Source:
    """Return `count` pairs of a source, chosen by the seed, in the source's own order."""
    if count is None or count >= len(source):
        return source
    chosen = torch.randperm(len(source), generator=generator(seed, "subset"))[:count]
    return source.pick(chosen.sort().values.tolist())


def read_prompts(path: Path, num_pairs: int | None, seed: int) -> Prompts:
    """Read a text file with one prompt a line; raise a DataError if it holds none."""
    prompts = collect(checked, lines_of(path))
    if not prompts:
        raise DataError(f"{path} holds no prompt; write one a line")
    return Prompts(tuple(prompts), num_pairs or len(prompts), seed)


def _check_unused(data: DataSettings, *names: str) -> None:
    """Raise a DataError for the first of these settings that is set and would do nothing."""
    for name in names:
        if (value := getattr(data, name)) != getattr(DataSettings, name):
            raise DataError(
                f"data.{name} is {value!r}, which does nothing for what data.path = {data.path!r} "
                "is read as; leave it out"
            )

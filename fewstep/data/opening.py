"""From `data.path` to pairs: what it is, is found by looking."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from fewstep.config import DataSettings
from fewstep.data.coco import captions_files, read_coco
from fewstep.data.errors import DataError
from fewstep.data.folder import TABLES, read_folder, read_metadata
from fewstep.data.framing import Framing, buckets_of
from fewstep.data.hub import is_saved_dataset, read_dataset
from fewstep.data.pairs import BundledPairs, ImagePairs, Pairs
from fewstep.data.prompts import Prompts, read_prompts
from fewstep.data.shards import find_shards, read_shards
from fewstep.data.source import Source
from fewstep.diffusion.random import generator

BUNDLED_PAIRS, COCO_PAIRS = 4096, 5000
"""How many pairs are taken of a set that has more, where no number is set."""

OF_DATASETS = ("split", "image_column", "caption_column")
OF_IMAGES = ("crop", "buckets", "max_upscale", "captions")
"""Settings that only what `datasets` reads has a use for, and only images that are read."""

HUB_ID = re.compile(r"[\w-]+/[\w.-]+")


def open_data(
    data: DataSettings, resolution: int, divisor: int = 8, index: Path | None = None
) -> Pairs | Prompts:
    """Return the pairs, or the bare prompts, that the table [data] asks for.

    `divisor` is what the sides of a bucket are multiples of; the folder `index` keeps what was
    found in tar shards, so that they are looked through once.

    Raises:
        DataError: if the path is nothing that is known, or what lies there cannot be used.
    """
    if data.path == "bundled":
        _check_unused(data, "images", "teacher_steps", *OF_IMAGES, *OF_DATASETS)
        return BundledPairs(data.num_pairs or BUNDLED_PAIRS, resolution, data.seed)
    if data.path.endswith(".txt"):
        _check_unused(data, "images", "flip", *OF_IMAGES, *OF_DATASETS)
        return read_prompts(Path(data.path), data.num_pairs, data.seed)
    _check_unused(data, "teacher_steps")
    source, usual = open_source(data, index)
    source = subset(source, data.num_pairs or usual, data.seed)
    buckets = buckets_of(resolution, divisor) if data.buckets else ()
    framing = Framing(resolution, data.crop, data.max_upscale, buckets, data.seed)
    return ImagePairs(source, framing, data.captions == "all")


def open_source(data: DataSettings, index: Path | None = None) -> tuple[Source, int | None]:
    """Return the whole of what lies at `data.path`, and how many pairs are usually taken of it.

    Raises:
        DataError: if it is nothing that is known.
    """
    path = Path(data.path)
    images = Path(data.images) if data.images else None
    tables = [path / name for name in TABLES if (path / name).is_file()]
    if path.suffix == ".json" or (path.is_dir() and captions_files(path)):
        _check_unused(data, *OF_DATASETS)
        return read_coco(path, images), COCO_PAIRS
    if path.suffix in (".jsonl", ".csv") or tables:
        _check_unused(data, *OF_DATASETS)
        return read_metadata(tables[0] if tables else path, images), None
    _check_unused(data, "images")
    is_shards = path.suffix == ".tar" or data.path.startswith("pipe:") or "://" in data.path
    if shards := find_shards(data.path) if is_shards or path.is_dir() else []:
        _check_unused(data, *OF_DATASETS)
        return read_shards(shards, index), None
    is_hub_id = not path.parent.is_dir() and HUB_ID.fullmatch(data.path)
    if is_hub_id or (path.is_dir() and is_saved_dataset(path)):
        return read_dataset(data.path, data.split, data.image_column, data.caption_column), None
    if path.is_dir():
        _check_unused(data, *OF_DATASETS)
        return read_folder(path), None
    raise DataError(
        f"data.path is {data.path!r}, which is no folder, no captions .json, metadata .jsonl or "
        ".csv, no .tar shards, no .txt of prompts and no Hub id (owner/name, where no folder "
        "'owner' is here); give one of these, or 'bundled'"
    )


def _check_unused(data: DataSettings, *names: str) -> None:
    """Refuse settings that are not as they are by themselves and would do nothing.

    Raises:
        DataError: naming the first.
    """
    for name in names:
        if (value := getattr(data, name)) != getattr(DataSettings, name):
            raise DataError(
                f"data.{name} is {value!r}, which does nothing for what data.path = {data.path!r} "
                "is read as; leave it out"
            )


def subset(source: Source, count: int | None, seed: int) -> Source:
    """Return `count` pairs of a source, chosen by the seed, in the source's own order."""
    if count is None or count >= len(source):
        return source
    chosen = torch.randperm(len(source), generator=generator(seed, "subset"))[:count]
    numbers: Sequence[int] = chosen.sort().values.tolist()
    return source.pick(numbers)

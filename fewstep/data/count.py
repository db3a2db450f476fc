"""How many pairs `data.path` holds, where that can be told without reading them all."""

from pathlib import Path

from fewstep.config import DataSettings
from fewstep.data.coco import captions_files
from fewstep.data.files import files_below
from fewstep.data.folders import has_captions
from fewstep.data.hf_datasets import count_rows, is_hf_dataset
from fewstep.data.members import is_excluded, split_images
from fewstep.data.pairs import BUNDLED_PAIRS, open_source, read_prompts
from fewstep.data.shards import count_images, expanded, find_shards, is_shards
from fewstep.data.tables import TABLES, find_tables, is_table

MANY_SHARDS = 64
"""Tar files above which their headers are not read to count."""


def count_pairs(data: DataSettings) -> int | None:
    """Return how many pairs are trained on; None where they are not here, or many shards.

    Raises:
        DataError: as training would, if data that are here cannot be read.
    """
    if data.path == "bundled":
        return data.num_pairs or BUNDLED_PAIRS
    if not is_here(data.path):
        return None
    if data.path.endswith(".txt"):
        return len(read_prompts(Path(data.path), data.num_pairs, data.seed))
    found, usual = _found(data)
    wanted = data.num_pairs or usual
    return found if found is None or wanted is None else min(found, wanted)


def is_here(path: str) -> bool:
    """Return whether data are on this machine, of a pattern of shards at least one."""
    files = expanded(path) if is_shards(path) else (path,)
    return path == "bundled" or any(Path(file).exists() for file in files)


def _found(data: DataSettings) -> tuple[int | None, int | None]:
    """Return how many pairs there are, and how many of them are usually used."""
    path, exclude = Path(data.path), data.exclude
    described = captions_files(path) or any((path / name).is_file() for name in TABLES)
    is_folder = path.is_dir() and not described
    if (is_folder or is_shards(data.path)) and (shards := find_shards(data.path)):
        return (count_images(shards, exclude) if len(shards) <= MANY_SHARDS else None), None
    if not (described or is_table(path)) and is_hf_dataset(path, data.image_column):
        return count_rows(data.path, data.split), None
    if is_folder and (has_captions(path) or not find_tables(path)):
        files = (file for file in files_below(path) if not is_excluded(file, exclude))
        if images := split_images(files)[0]:
            return len(images), None
    source, usual = open_source(data)
    return len(source), usual

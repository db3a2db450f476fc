"""Which split a file belongs to: its name and its folders tell, as for the `datasets` library."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TypeVar

from fewstep.errors import DataError

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "dev": "validation", "val": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
SHARD = re.compile(r"(?P<split>\w+(?:\.\w+)*)-\d{5}-of-\d{5}")  # holdout-00000-of-00002.parquet
File = TypeVar("File", bound=PurePath)
T = TypeVar("T")


def split_of_name(name: str) -> str | None:
    """Return the split that a word of a file's or folder's name tells, if one does.

    >>> split_of_name("my_val"), split_of_name("latest")
    ('validation', None)
    """
    words = re.split(r"[-._ 0-9]+", name.lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)


def split_of(file: PurePath) -> str:
    """Return the split of a file: of a shard's name, of the nearest folder, or else of its words.

    A file whose path tells none is of "train".

    >>> split_of(PurePath("data/holdout-00000-of-00002.parquet")), split_of(PurePath("a/b.csv"))
    ('holdout', 'train')
    """
    if shard := SHARD.match(file.stem):
        return SPLIT_NAMES.get(shard["split"], shard["split"])
    folders = (folder.name for folder in file.parents)
    named = map(split_of_name, (*folders, file.stem))
    return next(filter(None, named), "train")


def by_split(files: Sequence[File]) -> dict[str, list[File]]:
    """Return the files of each split; their paths begin in the folder of all splits."""
    splits: dict[str, list[File]] = {}
    for file in files:
        splits.setdefault(split_of(file), []).append(file)
    return splits


def chosen(splits: Mapping[str, T], split: str, path: str) -> T:
    """Return the split of this name, or raise a DataError that names those that are there."""
    for name in (split, SPLIT_NAMES.get(split, split)):
        if name in splits:
            return splits[name]
    raise DataError(f"data.split is {split!r}; {path} has {', '.join(splits)}")

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


def splits_in(name: str) -> list[str]:
    """Return the splits that the words of a file's or folder's name tell, in any case.

    >>> splits_in("my_val"), splits_in("latest"), splits_in("training_test")
    (['validation'], [], ['train', 'test'])
    """
    words = re.split(r"[-._ 0-9]+", name.lower())
    return list(dict.fromkeys(SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES))


def split_of(file: PurePath) -> str:
    """Return the split of a file: of a shard's name, of the nearest folder, or else of its words.

    A file whose path tells none is of "train"; where `datasets` takes one for a part of two splits
    it is a DataError.

    >>> split_of(PurePath("data/holdout-00000-of-00002.parquet")), split_of(PurePath("a/b.csv"))
    ('holdout', 'train')
    """
    if shard := SHARD.match(file.stem):
        return SPLIT_NAMES.get(shard["split"], shard["split"])
    names = (*(folder.name for folder in file.parents), file.stem)
    told = next(filter(None, map(splits_in, names)), ["train"])
    if len(told) > 1:
        raise DataError(
            f"{file} is of {' and '.join(told)} by its name: rename it, or set data.path to it"
        )
    return told[0]


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

"""What the `datasets` library reads: the Hub, `save_to_disk` folders, folders of parquet files."""

# of libraries without types
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportArgumentType=false

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from fewstep.data.base import ImageError, Source
from fewstep.data.captions import attempt
from fewstep.data.files import read_image
from fewstep.data.tables import CAPTION_COLUMNS
from fewstep.errors import DataError
from fewstep.text import checked

# what `datasets` takes for a split in a file's name
SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "dev": "validation", "val": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
SHARD = re.compile(r"(?P<split>\w+(?:\.\w+)*)-\d{5}-of-\d{5}")  # holdout-00000-of-00002.parquet
T = TypeVar("T")


@dataclass(frozen=True)
class Rows(Source):
    """The rows of a table with an image column and a column of captions."""

    table: Any
    image: str
    caption: str
    where: str
    left_out: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        return f"{self.table._fingerprint} {self.image} {self.caption}"

    def __len__(self) -> int:
        return len(self.table)

    def name(self, number: int) -> str:
        return f"{self.where} row {number}"

    def captions(self, number: int) -> tuple[str, ...]:
        try:
            value = self._texts[number][self.caption]
        except UnicodeDecodeError as error:
            what = f"the caption of {self.name(number)}"
            raise DataError(f"{what} is not UTF-8 ({error.reason}); save it as UTF-8") from error
        values = value if isinstance(value, list) else [value]
        return tuple(checked(self.name(number), text) for text in values or [None])

    def read(self, number: int) -> bytes:
        try:
            image: dict[str, Any] = self.table[number][self.image] or {}
        except (OSError, ValueError) as error:
            raise ImageError(f"the row cannot be read: {error}") from error
        if image.get("bytes") is not None:
            return image["bytes"]
        if not image.get("path"):
            raise ImageError("the row has no image")
        return read_image(Path(image["path"]))

    @cached_property
    def _texts(self) -> Any:
        """The captions without the images, which would be read from the disk with them."""
        return self.table.select_columns([self.caption])

    def pick(self, numbers: Sequence[int]) -> "Rows":
        return replace(self, table=self.table.select(list(numbers)))


def is_hf_dataset(folder: Path) -> bool:
    """Return whether a folder was written by `save_to_disk`, or holds parquet files."""
    saved = ("state.json", "dataset_dict.json")
    return any((folder / name).is_file() for name in saved) or bool(_parquet_files(folder))


def read_hf_dataset(
    path: str, split: str, image_column: str | None = None, caption_column: str | None = None
) -> Rows:
    """Open a folder or a Hub id, or raise a DataError.

    Columns that are not named are found by their type and name.
    """
    table = _loaded(path, split)
    from datasets import Image

    features = table.features
    images = [name for name, kind in features.items() if isinstance(kind, Image)]
    image = image_column or (images[0] if len(images) == 1 else "")
    named = (name for name in (*CAPTION_COLUMNS, "captions") if name in features)
    caption = caption_column or next(named, "")
    for setting, column in (("image_column", image), ("caption_column", caption)):
        if column not in features:
            raise DataError(
                f"{path} has the columns {', '.join(features)}; set data.{setting} to one of them"
            )
    if image not in images:
        raise DataError(f"data.image_column is {image!r}, which holds no images")
    rows = Rows(table.cast_column(image, Image(decode=False)), image, caption, path)
    found, left_out = attempt(rows.captions, ((n,) for n in range(len(rows))))  # not after hours
    if not left_out:
        return rows
    return replace(
        rows.pick([n for n, texts in enumerate(found) if texts]), left_out=tuple(left_out)
    )


def _loaded(path: str, split: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"data.path is {path!r}: there is no such folder of images; to read it as a dataset, "
            "pip install 'fewstep[data]'"
        ) from error
    datasets.disable_progress_bars()
    folder = Path(path)
    found = _parquet_files(folder)
    files = _chosen(_splits(found), split, path) if found else []
    try:
        if not folder.is_dir():
            return datasets.load_dataset(path, split=split)
        if files:
            return datasets.load_dataset("parquet", data_files=files, split="train")
        loaded = datasets.load_from_disk(path)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:200]
        what = "this folder" if folder.is_dir() else "it is no folder or file here, and"
        raise DataError(
            f"cannot load data.path = {path!r}: {what} as a dataset cannot be read ({reason})"
        ) from error
    if not isinstance(loaded, datasets.DatasetDict):  # "train[:10%]" is of train
        loaded = {str(loaded.split or "train").partition("[")[0]: loaded}
    return _chosen(loaded, split, path)


def _chosen(splits: Mapping[str, T], split: str, path: str) -> T:
    for name in (split, SPLIT_NAMES.get(split, split)):
        if name in splits:
            return splits[name]
    raise DataError(f"data.split is {split!r}; {path} has {', '.join(splits)}")


def _splits(files: Sequence[str]) -> dict[str, list[str]]:
    """Return the files of each split; those whose names tell none are of "train"."""
    splits: dict[str, list[str]] = {}
    for file in files:
        name = Path(file).stem
        shard = SHARD.match(name)
        told = [shard["split"]] if shard else re.split(r"[-._ 0-9]+", name.lower())
        known = (SPLIT_NAMES[word] for word in told if word in SPLIT_NAMES)
        splits.setdefault(next(known, told[0] if shard else "train"), []).append(file)
    return splits


def _parquet_files(folder: Path) -> list[str]:
    return sorted(str(file) for file in [*folder.glob("*.parquet"), *folder.glob("data/*.parquet")])

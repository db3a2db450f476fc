"""What the `datasets` library reads: the Hub, `save_to_disk` folders, folders of parquet files."""

# of libraries without types
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportArgumentType=false

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fewstep.data.base import ImageError, Source
from fewstep.data.captions import attempt
from fewstep.data.files import read_image
from fewstep.data.parquet import (
    FILES,
    check_alike,
    count_in,
    holds_text,
    image_columns,
    parquet_files,
    read_schema,
)
from fewstep.data.splits import by_split, chosen
from fewstep.data.tables import CAPTION_COLUMNS, usual_column
from fewstep.errors import DataError
from fewstep.models.hub import out_of_reach
from fewstep.text import checked


@dataclass(frozen=True)
class Rows(Source):
    """The rows of a table with an image column and a column of captions."""

    table: Any
    image: str
    caption: str
    where: str
    unused: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """The fingerprint that datasets keeps of the table, and both columns."""
        return f"{self.table._fingerprint} {self.image} {self.caption}"

    def __len__(self) -> int:
        return len(self.table)

    def name(self, number: int) -> str:
        """Return where the row is, and its number."""
        return f"{self.where} row {number}"

    def captions(self, number: int) -> tuple[str, ...]:
        """Return the captions of a row: one, or the texts of a list."""
        try:
            value = self._texts[number][self.caption]
        except UnicodeDecodeError as error:
            what = f"the caption of {self.name(number)}"
            raise DataError(f"{what} is not UTF-8 ({error.reason}); save it as UTF-8") from error
        values = value if isinstance(value, list) else [value]
        return tuple(checked(self.name(number), text) for text in values or [None])

    def read(self, number: int) -> bytes:
        """Return the image file's content; see `Source.read`."""
        try:
            value = self.table[number][self.image]
        except (OSError, ValueError) as error:
            raise ImageError(f"the row cannot be read: {error}") from error
        image = value if isinstance(value, dict) else {"bytes": value}
        if image.get("bytes") is not None:
            return image["bytes"]
        if not (file := image.get("path")):
            raise ImageError("the row has no image")
        try:
            return read_image(Path(file))
        except ImageError as error:
            why = f"the row holds no bytes, only the path {file!r}: {error}"
            raise ImageError(f"{why}; write the images' bytes into the table") from error

    @cached_property
    def _texts(self) -> Any:
        """The captions without the images, which would be read from the disk with them."""
        return self.table.select_columns([self.caption])

    def pick(self, numbers: Sequence[int]) -> "Rows":
        """Return these rows alone, in this order."""
        return replace(self, table=self.table.select(list(numbers)))


def is_hf_dataset(path: Path, image_column: str | None = None) -> bool:
    """Return whether a folder was written by `save_to_disk`, or parquet files hold images.

    Where an image column is named they do; where they cannot be opened, that is to be said.
    """
    if any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return True
    files = parquet_files(path) if path.is_dir() or path.suffix == ".parquet" else []
    if not files or image_column:
        return bool(files)
    with suppress(DataError):
        return path.is_file() or bool(image_columns(read_schema(files[0])))
    return True


def read_hf_dataset(
    path: str, split: str, image_column: str | None = None, caption_column: str | None = None
) -> Rows:
    """Open a folder, a parquet file or a Hub id, or raise a DataError.

    Columns that are not named are found by their type and name.
    """
    table = _loaded(path, split)
    image = _image_column(table, path, image_column)
    caption = _caption_column(table, path, caption_column)
    rows = Rows(_undecoded(table, image), image, caption, path)
    failed = _failed_downloads(rows)
    numbers = [number for number in range(len(rows)) if number not in failed]
    found, left_out = attempt(rows.captions, ((n,) for n in numbers))  # now, not after hours
    if not failed and not left_out:
        return rows
    kept = [number for number, texts in zip(numbers, found, strict=True) if texts]
    unused = tuple(f"{rows.name(number)}: {status}" for number, status in failed.items())
    return replace(rows.pick(kept), unused=unused, left_out=tuple(left_out))


def _image_column(table: Any, path: str, named: str | None) -> str:
    """Return the column of images: the one of that type, or else the one that holds files."""
    from datasets import Image, Value

    features = table.features
    typed = [name for name, kind in features.items() if isinstance(kind, Image)]
    plain = [name for name in image_columns(features.arrow_schema)
             if isinstance(features[name], Value | dict)]  # fmt: skip
    found, columns = typed or plain, ", ".join(features)
    if named:
        if named not in features:
            raise DataError(
                f"{path} has the columns {columns}; set data.image_column to one of them"
            )
        if named not in typed + plain:
            raise DataError(f"data.image_column is {named!r}, which holds no images: {FILES}")
        return named
    if not found:
        raise DataError(f"{path} has the columns {columns}, and none of them holds images: {FILES}")
    if len(found) > 1:
        choices = ", ".join(found)
        raise DataError(f"{path} has images in {choices}; set data.image_column to one of them")
    return found[0]


def _caption_column(table: Any, path: str, named: str | None) -> str:
    """Return the column of captions: the one that is named, or else the one of a usual name."""
    kinds = {field.name: field.type for field in table.features.arrow_schema}
    texts = ", ".join(name for name, kind in kinds.items() if holds_text(kind))
    fix = f"set data.caption_column to one of {texts}" if texts else "write a column of text"
    column = named or usual_column(kinds, (*CAPTION_COLUMNS, "captions"))
    if column is None or column not in kinds:
        missing = f"none is {named!r}" if named else "none has a usual name of captions"
        raise DataError(f"{path} has the columns {', '.join(kinds)}, and {missing}; {fix}")
    if not holds_text(kinds[column]):
        raise DataError(f"{path}: the column {column} holds {kinds[column]} and no text; {fix}")
    return column


def _undecoded(table: Any, image: str) -> Any:
    """Return a table whose images are given as files; without their type they are so already."""
    from datasets import Image

    is_typed = isinstance(table.features[image], Image)
    return table.cast_column(image, Image(decode=False)) if is_typed else table


def _failed_downloads(rows: Rows) -> dict[int, str]:
    """Return the rows that img2dataset keeps of images it could not get, with its `status`."""
    if "status" not in rows.table.features:
        return {}
    statuses = rows.table.select_columns(["status"])["status"]
    failed = {n: text for n, text in enumerate(statuses) if str(text).startswith("failed_to_")}
    images = rows.table.select_columns([rows.image])
    return {n: text for n, text in failed.items() if images[n][rows.image] is None}


def count_rows(path: str, split: str) -> int:
    """Return the number of rows of a folder or file, of parquet by the footers alone.

    Raises:
        DataError: if it cannot be read, or there is no such split.
    """
    if not (files := _files_of_split(Path(path), split)):
        return len(_loaded(path, split))
    return sum(files.values())


def check_on_hub(path: str) -> None:
    """Refuse a Hub id whose dataset is neither in the cache nor on the Hub; download none of it.

    Raises:
        DataError: if it is not there, or `datasets` is not installed.
    """
    with _reading(path) as datasets:
        datasets.load_dataset_builder(path)


def _loaded(path: str, split: str) -> Any:
    files = list(_files_of_split(Path(path), split))
    with _reading(path, files) as datasets:
        if not Path(path).exists():
            return datasets.load_dataset(path, split=split)
        if files:
            return datasets.load_dataset("parquet", data_files=files, split="train")
        loaded = datasets.load_from_disk(path)
    if not isinstance(loaded, datasets.DatasetDict):  # "train[:10%]" is of train
        loaded = {str(loaded.split or "train").partition("[")[0]: loaded}
    return chosen(loaded, split, path)


def _files_of_split(path: Path, split: str) -> dict[str, int]:
    """Return the parquet files of a split and their numbers of rows, by the footers alone."""
    files = parquet_files(path)
    if files and path.is_dir():
        splits = by_split([Path(file).relative_to(path) for file in files])
        files = [str(path / file) for file in chosen(splits, split, str(path))]
    filled = {file: rows for file in files if (rows := count_in(file))}  # Spark has empty ones
    if files and not filled:
        raise DataError(f"{files[0]} has no rows{' like the others' if len(files) > 1 else ''}")
    return filled


@contextmanager
def _reading(path: str, files: Sequence[str] = ()) -> Iterator[Any]:
    """Give the `datasets` library, to read `path`; raise its errors, and its lack, as DataErrors.

    Where the Hub is out of reach it looks into its cache alone.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"data.path is {path!r}: there is no such folder of images; to read it as a dataset, "
            "pip install 'fewstep[data]'"
        ) from error
    datasets.disable_progress_bars()
    is_here = Path(path).exists()
    offline = None if is_here else out_of_reach()
    try:
        with without_asking(datasets.config) if offline else nullcontext():
            yield datasets
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        check_alike(files)
        is_vague = type(error) is datasets.exceptions.DatasetGenerationError
        reason = " ".join(str((is_vague and error.__cause__) or error).split())[:200]
        if offline:
            reason = f"{offline}, and {path} was not downloaded before"
        what = "this folder" if is_here else "it is no folder or file here, and"
        raise DataError(
            f"cannot load data.path = {path!r}: {what} as a dataset cannot be read ({reason})"
        ) from error


@contextmanager
def without_asking(config: Any) -> Iterator[None]:
    """Have `datasets` look into its cache alone: it would try to reach the Hub for a minute."""
    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before

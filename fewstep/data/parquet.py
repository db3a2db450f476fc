"""Parquet files of any writer: where they lie, which columns hold images, and rows of text."""

# of a library without types
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fewstep.data.splits import splits_in
from fewstep.errors import DataError

FILES = "image files as bytes, or structs with `bytes`"
METADATA = "metadata.parquet"
"""The name of a table that names image files (imagefolder)."""


def parquet_files(path: Path) -> list[str]:
    """Return a file itself, or those of a folder, of its `data`, and of both's splits' folders."""
    if path.is_file():
        return [str(path)]
    roots = [path, path / "data"]
    folders = [
        folder
        for root in filter(Path.is_dir, roots)
        for folder in root.iterdir()
        if splits_in(folder.name) and folder.is_dir()
    ]
    found = (file for folder in (*roots, *folders) for file in folder.glob("*.parquet"))
    return sorted(str(f) for f in found if f.name != METADATA and not f.name.startswith("."))


def image_columns(schema: Any) -> list[str]:
    """Return the columns of an Arrow schema that hold files: bytes, or a struct with `bytes`."""
    return [field.name for field in schema if _holds_files(field.type)]


def _holds_files(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        place = kind.get_field_index("bytes")
        inner = kind.field(place).type if place >= 0 else None
        return inner is not None and (types.is_null(inner) or _holds_files(inner))
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def holds_text(kind: Any) -> bool:
    """Return whether an Arrow type is text, or lists of it."""
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind) or types.is_dictionary(kind):
        return holds_text(kind.value_type)
    is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    return is_text or types.is_null(kind)


@contextmanager
def reading(file: Path | str) -> Iterator[Any]:
    """Give `pyarrow.parquet` to read a file, and raise a DataError that names it in place of its.

    Raises:
        DataError: if the library is missing, or the file is damaged.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"to read {file}, pip install 'fewstep[data]', which brings pyarrow"
        ) from error
    try:
        yield parquet
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"cannot read {file} as parquet ({reason}); copy it again") from error


def read_schema(file: Path | str) -> Any:
    """Return a file's Arrow schema, or raise a DataError."""
    with reading(file) as parquet:
        return parquet.read_schema(file)


def check_alike(files: Sequence[str]) -> None:
    """Read all of these files; raise a DataError for a damaged one, and for unlike columns."""
    first: dict[str, str] = {}
    for file in files:
        with reading(file) as parquet, parquet.ParquetFile(file) as opened:
            columns = {field.name: str(field.type) for field in opened.schema_arrow}
            for _ in opened.iter_batches(batch_size=64):
                pass
        first = first or columns
        for name in first | columns:
            ours, theirs = (of.get(name, "missing") for of in (first, columns))
            if ours != theirs:
                raise DataError(
                    f"the column {name} is {ours} in {files[0]} and {theirs} in {file}: write them "
                    "alike, or set data.path to one of the files"
                )


def count_in(file: Path | str) -> int:
    """Return the number of rows by the footer alone, or raise a DataError."""
    with reading(file) as parquet:
        return parquet.read_metadata(file).num_rows


def parquet_rows(file: Path, columns: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield "file row n" and these columns of it, for each row; from 0."""
    with reading(file) as parquet:
        rows = parquet.read_table(file, columns=list(columns)).to_pylist()
    for number, row in enumerate(rows):
        yield f"{file} row {number}", row

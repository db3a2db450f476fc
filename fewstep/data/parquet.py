"""Parquet files of any writer: where they lie, which columns hold images, and rows of text."""

# of a library without types
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fewstep.data.splits import split_of_name
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
        if split_of_name(folder.name) and folder.is_dir()
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
        return place >= 0 and _holds_files(kind.field(place).type)
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def read_schema(file: Path | str) -> Any:
    """Return a file's Arrow schema, or raise a DataError."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"to read {file}, pip install 'fewstep[data]', which brings pyarrow"
        ) from error
    try:
        return parquet.read_schema(file)
    except (OSError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"cannot read {file} as parquet ({reason}); copy it again") from error


def is_empty(file: Path | str) -> bool:
    """Return whether a file has no row, as Spark writes some; one that cannot be read is not."""
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_metadata(file).num_rows == 0
    except (OSError, pyarrow.ArrowException):
        return False


def parquet_rows(file: Path, columns: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield "file row n" and these columns of it, for each row; from 0."""
    import pyarrow
    from pyarrow import parquet

    try:
        rows = parquet.read_table(file, columns=list(columns)).to_pylist()
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"cannot read {file} as parquet ({reason}); write it again") from error
    for number, row in enumerate(rows):
        yield f"{file} row {number}", row

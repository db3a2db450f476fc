"""Tables of metadata beside images, as imagefolder has them: `file_name` and `text` a row."""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from fewstep.data.captions import attempt, lines_of, parse_json, read_text
from fewstep.data.folders import ImageFiles, named_files
from fewstep.data.members import is_excluded
from fewstep.data.parquet import METADATA, image_columns, parquet_rows, read_schema
from fewstep.data.splits import by_split, chosen
from fewstep.errors import DataError
from fewstep.text import checked

CAPTION_COLUMNS = ("text", "caption", "prompt")
TABLES = ("metadata.jsonl", "metadata.csv", METADATA)


def usual_column(names: Iterable[str], usual: Sequence[str] = CAPTION_COLUMNS) -> str | None:
    """Return the column of captions among these: of a usual name, or else of one in capitals.

    >>> usual_column(["URL", "TEXT"]), usual_column(["TEXT", "caption"]), usual_column(["URL"])
    ('TEXT', 'caption', None)
    """
    names = list(names)
    lower = {name.lower(): name for name in names} | {name: name for name in names}
    exact = (name for name in usual if name in names)
    return next(exact, None) or next((lower[name] for name in usual if name in lower), None)


def find_tables(folder: Path) -> list[Path]:
    """Return the tables of metadata in a folder and below it, relative to it and sorted."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name).relative_to(folder) for name in TABLES if name in files]
    return sorted(found)


def read_tables(
    folder: Path, split: str, images: Path | None = None, exclude: Sequence[str] = ()
) -> ImageFiles:
    """Read the tables of a folder and those below it, each of the images beside it.

    Tables in folders called `train`, `test` and the like are of this split, others of "train".
    Raises DataError for a split that is not there, and where two tables name the same images.
    """
    tables = chosen(by_split(find_tables(folder)), split, str(folder))
    repeated = [parent for parent, n in Counter(table.parent for table in tables).items() if n > 1]
    if repeated:
        names = " and ".join(table.name for table in tables if table.parent == repeated[0])
        raise DataError(
            f"{folder / repeated[0]} holds {names}; set data.path to the one to read, or move the "
            "other away"
        )
    if len(tables) == 1:
        return read_table(folder / tables[0], images, exclude)
    if images:
        raise DataError(
            f"data.images is {str(images)!r}, and {folder} holds {len(tables)} tables, such as "
            f"{tables[0]} and {tables[1]}, each of the images beside it; leave data.images out, or "
            "set data.path to one of the tables"
        )
    return _joined(folder, tables, [read_table(folder / table, None, exclude) for table in tables])


def _joined(folder: Path, tables: Sequence[Path], parts: Sequence[ImageFiles]) -> ImageFiles:
    files = [[str(t.parent / f) for f in p.files] for t, p in zip(tables, parts, strict=True)]
    named = Counter(file for of_one in files for file in set(of_one))
    if twice := sorted(file for file, times in named.items() if times > 1):
        raise DataError(
            f"{len(twice)} images below {folder} are named twice, such as {twice[0]}, by tables "
            f"such as {tables[0]} and {tables[1]}; set data.path to one of the tables"
        )
    unused = (str(t.parent / f) for t, p in zip(tables, parts, strict=True) for f in p.unused)
    return ImageFiles(
        folder,
        tuple(chain(*files)),
        tuple(texts for part in parts for texts in part.texts),
        tuple(dict.fromkeys(file for file in unused if file not in named)),
        tuple(reason for part in parts for reason in part.left_out),
    )


def read_table(table: Path, images: Path | None = None, exclude: Sequence[str] = ()) -> ImageFiles:
    """Read a `.jsonl`, `.csv` or `.parquet` file of rows with `file_name` and a caption."""
    rows = list(READERS[table.suffix.lower()](table))
    if not rows:
        raise DataError(f"{table} has no rows; write one an image, with file_name and text")
    column = usual_column(rows[0][1])
    if "file_name" not in rows[0][1] or column is None:
        raise DataError(
            f"{table} has the columns {', '.join(rows[0][1])}; it needs file_name and one of "
            f"{', '.join(CAPTION_COLUMNS)}"
        )
    for where, row in rows:
        if not isinstance(row.get("file_name"), str) or not row["file_name"]:
            raise DataError(f"{where} has no file_name; write the image's name there")
    rows = [row for row in rows if not is_excluded(Path(row[1]["file_name"]), exclude)]
    files = [row["file_name"] for _, row in rows]
    texts, left_out = attempt(checked, ((where, row.get(column)) for where, row in rows))
    captions = [(text,) if text else None for text in texts]
    found = named_files(images or table.parent, files, captions, table, exclude)
    return replace(found, left_out=(*left_out, *found.left_out))


def _json_rows(table: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for where, line in lines_of(table):
        if not isinstance(row := parse_json(line, where), dict):
            raise DataError(f"{where} is not a JSON object in braces")
        yield where, row


def _csv_rows(table: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(read_text(table), newline=""), strict=True)
    try:
        for row in reader:
            where = f"{table} line {reader.line_num}"
            if None in row:
                raise DataError(
                    f"{where} has more fields than the header; put a caption with commas in quotes"
                )
            yield where, row
    except csv.Error as error:
        raise DataError(f"{table} line {reader.reader.line_num} is not CSV: {error}") from error


def _parquet_rows(table: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    names = read_schema(table).names
    column = usual_column(names)
    if "file_name" not in names or column is None:
        yield str(table), dict.fromkeys(names)  # which says what it lacks
    else:
        yield from parquet_rows(table, ("file_name", column))


def is_table(path: Path) -> bool:
    """Return whether a file is such a table; a parquet file may hold the images themselves."""
    if path.suffix.lower() != ".parquet" or not path.is_file():
        return path.suffix.lower() in (".jsonl", ".csv")
    schema = read_schema(path)
    return path.name == METADATA or ("file_name" in schema.names and not image_columns(schema))


READERS = {".jsonl": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}

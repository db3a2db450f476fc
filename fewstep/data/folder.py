"""Folders of pictures: with a caption file beside each, or with one table of metadata."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from fewstep.data.captions import checked, read_text
from fewstep.data.errors import DataError
from fewstep.data.pictures import SUFFIXES
from fewstep.data.source import PictureFiles, check_present

CAPTION_SUFFIXES = (".txt", ".caption")
CAPTION_COLUMNS = ("text", "caption", "prompt")
TABLES = ("metadata.jsonl", "metadata.csv")


def read_folder(folder: Path) -> PictureFiles:
    """Read pictures, in subfolders too, with a caption of the same name (`cat.jpg`, `cat.txt`).

    Raises:
        DataError: if there is no picture, or one has no caption.
    """
    found = sorted(
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    if not found:
        raise DataError(
            f"{folder} holds no pictures; put {', '.join(SUFFIXES)} files there, each with a .txt "
            "file of the same name that holds its caption"
        )
    texts = tuple((_caption_beside(folder / file),) for file in found)
    return PictureFiles(folder, tuple(map(str, found)), texts)


def _caption_beside(picture: Path) -> str:
    for suffix in CAPTION_SUFFIXES:
        if (path := picture.with_suffix(suffix)).is_file():
            return checked(read_text(path), str(picture))
    raise DataError(f"{picture} has no caption: write it into {picture.with_suffix('.txt')}")


def read_metadata(table: Path, pictures: Path | None = None) -> PictureFiles:
    """Read `metadata.jsonl` or `.csv`: a `file_name` and a `text` a line (imagefolder).

    Raises:
        DataError: if it does not parse, lacks a column, or names missing files.
    """
    rows = list(_csv_rows(table) if table.suffix == ".csv" else _json_rows(table))
    if not rows:
        raise DataError(f"{table} has no rows; write one a picture, with file_name and text")
    column = next((name for name in CAPTION_COLUMNS if name in rows[0][1]), None)
    if "file_name" not in rows[0][1] or column is None:
        raise DataError(
            f"{table} has the columns {', '.join(rows[0][1])}; it needs file_name and one of "
            f"{', '.join(CAPTION_COLUMNS)}"
        )
    files, texts = [], []
    for where, row in rows:
        if not isinstance(row.get("file_name"), str) or not row["file_name"]:
            raise DataError(f"{where} has no file_name; write the picture's name there")
        files.append(row["file_name"])
        texts.append((checked(row.get(column), where),))
    folder = pictures or table.parent
    check_present(folder, files, table)
    return PictureFiles(folder, tuple(files), tuple(texts))


def _json_rows(table: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    for number, line in enumerate(read_text(table).splitlines(), 1):
        if line.strip():
            yield f"{table} line {number}", _object(line, table, number)


def _object(line: str, table: Path, number: int) -> Mapping[str, object]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{table} line {number} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{table} line {number} is not a JSON object in braces")
    return row


def _csv_rows(table: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    reader = csv.DictReader(io.StringIO(read_text(table), newline=""), strict=True)
    try:
        for row in reader:
            yield f"{table} line {reader.line_num}", row
    except csv.Error as error:
        raise DataError(f"{table} line {reader.line_num} is not CSV: {error}") from error

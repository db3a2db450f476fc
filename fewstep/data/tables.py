"""Tables of metadata beside images, as imagefolder has them: `file_name` and `text` a row."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fewstep.data.captions import attempt, lines_of, parse_json, read_text
from fewstep.data.folders import ImageFiles, named_files
from fewstep.data.members import is_excluded
from fewstep.errors import DataError
from fewstep.text import checked

CAPTION_COLUMNS = ("text", "caption", "prompt")
TABLES = ("metadata.jsonl", "metadata.csv")


def read_metadata(
    table: Path, images: Path | None = None, exclude: Sequence[str] = ()
) -> ImageFiles:
    """Read `metadata.jsonl` or `.csv`: one `file_name` and `text` a line (imagefolder)."""
    rows = list(_csv_rows(table) if table.suffix == ".csv" else _json_rows(table))
    if not rows:
        raise DataError(f"{table} has no rows; write one an image, with file_name and text")
    column = next((name for name in CAPTION_COLUMNS if name in rows[0][1]), None)
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

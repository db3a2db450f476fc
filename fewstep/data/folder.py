"""Folders of pictures: with a caption file beside each, or with one table of metadata."""

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath

from fewstep.data.captions import Faults, checked, numbered_lines, parsed, read_text
from fewstep.data.errors import DataError
from fewstep.data.pictures import SUFFIXES
from fewstep.data.source import PictureFiles, check_present

CAPTION_SUFFIXES = (".txt", ".caption")
CAPTION_COLUMNS = ("text", "caption", "prompt")
TABLES = ("metadata.jsonl", "metadata.csv")


def read_folder(folder: Path) -> PictureFiles:
    """Read pictures, in subfolders too, with a caption of the same name (`cat.jpg`, `cat.txt`).

    Raises:
        DataError: if there is no picture, one has no caption, or what has one is not read.
    """
    paths = sorted(path for path in folder.rglob("*") if not path.name.startswith("."))
    if link := next((path for path in paths if path.is_symlink() and path.is_dir()), None):
        raise DataError(f"{link} is a link to a folder, which is not followed; move its files here")
    files = [path.relative_to(folder) for path in paths if not path.is_dir()]
    found = [file for file in files if file.suffix.lower() in SUFFIXES]
    check_all_read(files, folder)
    if not found:
        raise DataError(
            f"{folder} holds no pictures; put {', '.join(SUFFIXES)} files there, each with a .txt "
            "file of the same name that holds its caption"
        )
    beside = {file.with_suffix(file.suffix.lower()): file for file in files}
    texts, faults = [], Faults()
    for file in found:
        with faults.collected():
            texts.append((_caption_beside(folder, file, beside),))
    faults.check()
    return PictureFiles(folder, tuple(map(str, found)), tuple(texts))


def _caption_beside(folder: Path, picture: Path, beside: Mapping[Path, Path]) -> str:
    name = str(folder / picture)
    for suffix in CAPTION_SUFFIXES:
        if caption := beside.get(picture.with_suffix(suffix)):
            return checked(read_text(folder / caption), name)
    raise DataError(f"{name} has no caption: write it into {folder / picture.with_suffix('.txt')}")


def check_all_read(files: Iterable[PurePath], where: Path) -> None:
    """Refuse what has a caption beside it and no picture of a format that is read.

    Raises:
        DataError: naming the first such file.
    """
    pictures, captions, others = set(), set(), defaultdict(list)
    for file in files:
        key, suffix = file.with_suffix(""), file.suffix.lower()
        if suffix in SUFFIXES:
            pictures.add(key)
        elif suffix in CAPTION_SUFFIXES:
            captions.add(key)
        else:
            others[key].append(str(file))
    unread = sorted((captions & others.keys()) - pictures)
    if unread:
        raise DataError(
            f"{where} holds {len(unread)} captions of files that are not read, such as "
            f"{' and '.join(others[unread[0]])}; save these as one of {', '.join(SUFFIXES)}, or "
            "remove them"
        )


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
    files, texts, faults = [], [], Faults()
    for where, row in rows:
        if not isinstance(row.get("file_name"), str) or not row["file_name"]:
            raise DataError(f"{where} has no file_name; write the picture's name there")
        files.append(row["file_name"])
        with faults.collected():
            texts.append((checked(row.get(column), where),))
    faults.check()
    folder = pictures or table.parent
    check_present(folder, files, table)
    return PictureFiles(folder, tuple(files), tuple(texts))


def _json_rows(table: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    for number, line in numbered_lines(table):
        where = f"{table} line {number}"
        row = parsed(line, where)
        if not isinstance(row, dict):
            raise DataError(f"{where} is not a JSON object in braces")
        yield where, row


def _csv_rows(table: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
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
        raise DataError(f"{table} line {reader.line_num} is not CSV: {error}") from error

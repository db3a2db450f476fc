"""Folders of images: with a caption file beside each, or with one table of metadata."""

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePath

from fewstep.data.captions import Faults, checked, numbered_lines, parsed, read_text
from fewstep.data.disk import files_below, find_named, finder, one_spelling
from fewstep.data.errors import DataError
from fewstep.data.images import SUFFIXES
from fewstep.data.source import ImageFiles

CAPTION_SUFFIXES = (".txt", ".caption")
CAPTION_COLUMNS = ("text", "caption", "prompt")
TABLES = ("metadata.jsonl", "metadata.csv")


def read_folder(folder: Path) -> ImageFiles:
    """Read images, in subfolders too, with a caption of the same name (`cat.jpg`, `cat.txt`).

    Raises:
        DataError: if there is no image, one has no caption, or what has one is not read.
    """
    files = files_below(folder)
    found = [file for file in files if file.suffix.lower() in SUFFIXES]
    check_all_read(files, folder)
    if not found:
        raise DataError(
            f"{folder} holds no images; put {', '.join(SUFFIXES)} files there, each with a .txt "
            "file of the same name that holds its caption"
        )
    captions = {
        str(file.with_suffix(file.suffix.lower())): file
        for file in files
        if file.suffix.lower() in CAPTION_SUFFIXES
    }
    find, texts, used, faults = finder(captions), [], set(), Faults()
    for file in found:
        with faults.collected():
            key = _caption_beside(folder / file, file, find)
            used.add(key)
            texts.append((checked(read_text(folder / captions[key]), str(folder / file)),))
    faults.check()
    unused = tuple(str(captions[key]) for key in captions if key not in used)
    return ImageFiles(folder, tuple(map(str, found)), tuple(texts), unused)


def _caption_beside(path: Path, image: Path, find: Callable[[str], str | None]) -> str:
    for suffix in CAPTION_SUFFIXES:
        if key := find(str(image.with_suffix(suffix))):
            return key
    raise DataError(f"{path} has no caption: write it into {path.with_suffix('.txt')}")


def images_among(files: Iterable[str]) -> tuple[str, ...]:
    """Return those of the files that are images."""
    return tuple(file for file in files if Path(file).suffix.lower() in SUFFIXES)


def check_all_read(files: Iterable[PurePath], where: Path) -> None:
    """Refuse what has a caption beside it and no image of a format that is read.

    Raises:
        DataError: naming the first such file.
    """
    images, captions, others = set(), set(), defaultdict(list)
    for file in files:
        key, suffix = one_spelling(str(file.with_suffix(""))), file.suffix.lower()
        if suffix in SUFFIXES:
            images.add(key)
        elif suffix in CAPTION_SUFFIXES:
            captions.add(key)
        else:
            others[key].append(str(file))
    unread = sorted((captions & others.keys()) - images)
    if unread:
        raise DataError(
            f"{where} holds {len(unread)} captions of files that are not read, such as "
            f"{' and '.join(others[unread[0]])}; save these as one of {', '.join(SUFFIXES)}, or "
            "remove them"
        )


def read_metadata(table: Path, images: Path | None = None) -> ImageFiles:
    """Read `metadata.jsonl` or `.csv`: a `file_name` and a `text` a line (imagefolder).

    Raises:
        DataError: if it does not parse, lacks a column, or names missing files.
    """
    rows = list(_csv_rows(table) if table.suffix == ".csv" else _json_rows(table))
    if not rows:
        raise DataError(f"{table} has no rows; write one an image, with file_name and text")
    column = next((name for name in CAPTION_COLUMNS if name in rows[0][1]), None)
    if "file_name" not in rows[0][1] or column is None:
        raise DataError(
            f"{table} has the columns {', '.join(rows[0][1])}; it needs file_name and one of "
            f"{', '.join(CAPTION_COLUMNS)}"
        )
    files, texts, faults = [], [], Faults()
    for where, row in rows:
        if not isinstance(row.get("file_name"), str) or not row["file_name"]:
            raise DataError(f"{where} has no file_name; write the image's name there")
        files.append(row["file_name"])
        with faults.collected():
            texts.append((checked(row.get(column), where),))
    faults.check()
    folder = images or table.parent
    names, others = find_named(folder, files, table)
    return ImageFiles(folder, names, tuple(texts), images_among(others))


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
        raise DataError(f"{table} line {reader.reader.line_num} is not CSV: {error}") from error

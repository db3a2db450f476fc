"""Images in folders: a caption file beside each, a table of metadata, or COCO's JSON.

A caption or image that is missing, or a file that cannot be parsed, is a DataError naming it.
"""

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewstep.data.base import Source, digest_of_lines
from fewstep.data.captions import captions_in, collect, lines_of, parse_json, read_text
from fewstep.data.files import (
    CAPTION_SUFFIXES,
    IMAGE_SUFFIXES,
    check_all_read,
    files_below,
    finder,
    is_image,
    read_image,
    size_and_time,
)
from fewstep.errors import DataError
from fewstep.text import checked

CAPTION_COLUMNS = ("text", "caption", "prompt")
TABLES = ("metadata.jsonl", "metadata.csv")


@dataclass(frozen=True)
class ImageFiles(Source):
    """Image files below a folder, with their captions in memory."""

    folder: Path
    files: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    unused: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        return digest_of_lines(
            f"{file} {size_and_time(self.folder / file)} {texts}"
            for file, texts in zip(self.files, self.texts, strict=True)
        )

    def __len__(self) -> int:
        return len(self.files)

    def name(self, number: int) -> str:
        return str(self.folder / self.files[number])

    def captions(self, number: int) -> tuple[str, ...]:
        return self.texts[number]

    def read(self, number: int) -> bytes:
        return read_image(self.folder / self.files[number])

    def pick(self, numbers: Sequence[int]) -> "ImageFiles":
        files = tuple(self.files[i] for i in numbers)
        texts = tuple(self.texts[i] for i in numbers)
        return ImageFiles(self.folder, files, texts, self.unused)


def read_folder(folder: Path) -> ImageFiles:
    """Read images, in subfolders too, with a caption of the same name (`cat.jpg`, `cat.txt`)."""
    files = files_below(folder)
    check_all_read(files, folder)
    images = list(filter(is_image, files))
    if not images:
        raise DataError(
            f"{folder} holds no images; put {', '.join(IMAGE_SUFFIXES)} files there, each with a "
            ".txt file of the same name that holds its caption"
        )
    captions = {
        str(file.with_suffix(file.suffix.lower())): file
        for file in files
        if file.suffix.lower() in CAPTION_SUFFIXES
    }
    find, used = finder(captions), set()

    def captions_of(image: Path) -> tuple[str, ...]:
        path = folder / image
        found = (find(str(image.with_suffix(suffix))) for suffix in CAPTION_SUFFIXES)
        if (key := next(filter(None, found), None)) is None:
            raise DataError(f"{path} has no caption: write it into {path.with_suffix('.txt')}")
        used.add(key)
        return captions_in(str(path), read_text(folder / captions[key]))

    texts = collect(captions_of, ((image,) for image in images))
    unused = tuple(str(captions[key]) for key in captions if key not in used)
    return ImageFiles(folder, tuple(map(str, images)), tuple(texts), unused)


def read_metadata(table: Path, images: Path | None = None) -> ImageFiles:
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
    files = [row["file_name"] for _, row in rows]
    texts = collect(checked, ((where, row.get(column)) for where, row in rows))
    return _named_files(images or table.parent, files, [(text,) for text in texts], table)


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


def captions_files(folder: Path) -> list[Path]:
    """Return the caption files of a COCO folder."""
    return sorted([*folder.glob("annotations/captions_*.json"), *folder.glob("captions_*.json")])


def read_coco(path: Path, images: Path | None = None) -> ImageFiles:
    """Read a captions file (`captions_train2017.json`), or a folder with one in `annotations/`.

    The images lie in `train2017/`, beside the file or one folder up, or in `images`. Captions
    are in the order of their ids.
    """
    if path.is_dir():
        path = _only(captions_files(path), path, images)
    names, notes = _coco_tables(path)
    described = {image for image, *_ in notes}
    order = sorted(names, key=lambda image: names[image])
    missing = [f"{path}: image {names[image]}" for image in order if image not in described]
    rows = [(f"{path}: annotation {number}", caption) for _, number, caption in notes]
    captions = collect(checked, [*rows, *((name, None) for name in missing)])
    texts: dict[object, tuple[str, ...]] = dict.fromkeys(names, ())
    for (image, *_), caption in zip(notes, captions, strict=True):
        texts[image] += (caption,)
    folders = _image_folders(path)
    folder = images or next(filter(Path.is_dir, folders), None)
    if folder is None:
        raise DataError(
            f"the images of {path} are in none of {', '.join(map(str, folders))}; put them there, "
            "or set data.images to their folder"
        )
    files = [names[image] for image in order]
    return _named_files(folder, files, [texts[image] for image in order], path)


def _coco_tables(path: Path) -> tuple[dict[Any, str], list[tuple[Any, Any, Any]]]:
    """Return file names by image id, and (image id, id, caption) of each annotation, sorted."""
    table = parse_json(read_text(path), str(path))
    try:
        names = {image["id"]: str(image["file_name"]) for image in table["images"]}
        notes = sorted((a["image_id"], a["id"], a["caption"]) for a in table["annotations"])
        repeated = len(table["images"]) - len(names)
        strange = [note for note in notes if note[0] not in names]
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path} is no COCO captions file ({error!r}); it needs images with id and file_name, "
            "and annotations with image_id, id and caption, such as captions_train2017.json"
        ) from error
    if not names:
        raise DataError(f"{path} names no image; is it the right file?")
    if repeated:
        raise DataError(f"{path} gives {repeated} images the id of another; give each its own")
    if strange:
        image, number, _ = strange[0]
        raise DataError(f"{path}: annotation {number} is of image {image}, which is missing")
    return names, notes


def _only(found: list[Path], folder: Path, images: Path | None) -> Path:
    """Return the captions file whose images are there: a download has those of two sets."""
    usable = [path for path in found if any(map(Path.is_dir, _image_folders(path)))]
    if len(found) == 1 or (len(usable) == 1 and not images):
        return (usable or found)[0]
    raise DataError(
        f"{folder} holds {len(found)} caption files, {len(usable)} of them with their images; "
        f"set data.path to one of {', '.join(map(str, found))}"
    )


def _image_folders(path: Path) -> list[Path]:
    name = path.stem.removeprefix("captions_")
    return [path.parent.parent / name, path.parent / name, path.parent / "images"]


def _named_files(
    folder: Path, files: Sequence[str], texts: Sequence[tuple[str, ...]], named_by: Path
) -> ImageFiles:
    """Return the files under their names on the disk; raise DataError if one is missing."""
    if outside := [f for f in files if Path(f).is_absolute() or ".." in Path(f).parts]:
        raise DataError(f"{named_by} names {outside[0]!r}, which leads out of {folder}; correct it")
    on_disk = {
        str(parent / entry.name)
        for parent in {Path(file).parent for file in files}
        if os.path.isdir(folder / parent)  # False of a name that is too long
        for entry in os.scandir(folder / parent)
        if not entry.is_dir()
    }
    find = finder(on_disk)
    found = {file: find(str(Path(file))) for file in files}
    if missing := [file for file in files if found[file] is None]:
        raise DataError(
            f"{named_by} names {len(files)} images, and {len(missing)} of them are not in "
            f"{folder}, such as {missing[0]}; put them there, or set data.images to their folder"
        )
    names = tuple(str(found[file]) for file in files)
    unused = tuple(filter(is_image, sorted(on_disk - set(names))))
    return ImageFiles(folder, names, tuple(texts), unused)

"""Images in folders: with a caption file beside each, or named by a table.

A sample without an image or a usable caption is left out, and says why.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fewstep.console import counted
from fewstep.data.base import Source, digest_of_lines
from fewstep.data.captions import attempt, captions_in, read_text
from fewstep.data.files import (
    CAPTION_SUFFIXES,
    IMAGE_SUFFIXES,
    files_below,
    finder,
    is_image,
    read_image,
    size_and_time,
)
from fewstep.data.members import (
    captions_alone,
    is_caption,
    is_excluded,
    key_of,
    split_images,
    without_image,
)
from fewstep.data.parquet import FILES
from fewstep.errors import DataError

Captions = tuple[str, ...]


@dataclass(frozen=True)
class ImageFiles(Source):
    """Image files below a folder, with their captions in memory."""

    folder: Path
    files: tuple[str, ...]
    texts: tuple[Captions, ...]
    unused: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """The digest of every file's name, size and time, and of the captions."""
        return digest_of_lines(
            f"{file} {size_and_time(self.folder / file)} {texts}"
            for file, texts in zip(self.files, self.texts, strict=True)
        )

    def __len__(self) -> int:
        return len(self.files)

    def name(self, number: int) -> str:
        """Return the image's path."""
        return str(self.folder / self.files[number])

    def captions(self, number: int) -> Captions:
        """Return the captions of an image."""
        return self.texts[number]

    def read(self, number: int) -> bytes:
        """Return the image file's content; see `Source.read`."""
        return read_image(self.folder / self.files[number])

    def pick(self, numbers: Sequence[int]) -> "ImageFiles":
        """Return these images alone, in this order."""
        files = tuple(self.files[i] for i in numbers)
        return replace(self, files=files, texts=tuple(self.texts[i] for i in numbers))


def read_folder(folder: Path, exclude: Sequence[str] = ()) -> ImageFiles:
    """Read images, in subfolders too, with a caption of the same name (`cat.jpg`, `cat.txt`).

    Files whose names match `exclude` are not looked at. Raises DataError if there is no image, or
    none with a caption file.
    """
    files = [file for file in files_below(folder) if not is_excluded(file, exclude)]
    images, sidecars = split_images(files)
    captions = {
        str(file.with_suffix(file.suffix.lower())): file for file in filter(is_caption, files)
    }
    find, used = finder(captions), set()

    def captions_of(image: Path) -> Captions:
        path = folder / image
        found = (find(str(image.with_suffix(suffix))) for suffix in CAPTION_SUFFIXES)
        if (key := next(filter(None, found), None)) is None:
            raise DataError(f"{path} has no caption: write it into {path.with_suffix('.txt')}")
        used.add(key)
        return captions_in(str(path), read_text(folder / captions[key]))

    texts, left_out = attempt(captions_of, ((image,) for image in images))
    if not used:
        raise DataError(_no_pair(folder, files, len(images), exclude))
    alone = captions_alone(files, [*images, *sidecars])
    imageless = [file for file in alone if alone[file]]
    left_out += [without_image(str(folder / file), alone[file]) for file in imageless]
    unused = [captions[key] for key in captions if key not in used]
    unused = [str(file) for file in (*unused, *sidecars) if file not in imageless]
    pairs = [(str(image), found) for image, found in zip(images, texts, strict=True) if found]
    return ImageFiles(folder, *_columns(pairs), tuple(unused), tuple(left_out))


def has_captions(folder: Path) -> bool:
    """Return whether a caption file of the same name lies beside any image below a folder."""
    files = files_below(folder)
    images, _ = split_images(files)
    return bool(set(map(key_of, images)) & set(map(key_of, filter(is_caption, files))))


def _no_pair(folder: Path, files: Sequence[Path], num_images: int, exclude: Sequence[str]) -> str:
    """Return why a folder in which no image has a caption file cannot be used."""

    def first(*suffixes: str) -> Path | None:
        return next((file for file in files if file.suffix.lower() in suffixes), None)

    if num_images:
        table = first(".csv", ".jsonl", ".parquet")
        return (
            f"{folder} holds {counted(num_images, 'image')}, and none has a caption: write a .txt "
            "file of the same name beside each, metadata.csv with file_name and text, or COCO's "
            "annotations/captions_*.json"
            + (f"; if {table} is such a table, set data.path to {folder / table}" if table else "")
        )
    left = f" that data.exclude = {list(exclude)} leaves" if exclude else ""
    store = first(".parquet", ".tar")
    if store and store.parent != Path():
        return f"{folder} holds no images{left}, but {store}; set data.path to a folder of these"
    if store and store.suffix == ".parquet":
        return f"{folder} holds no images{left}, and {store} has no column of {FILES}"
    others = f", but {counted(len(files), 'other file')} such as {files[0]}" if files else ""
    return (
        f"{folder} holds no images{left}{others}; put {', '.join(IMAGE_SUFFIXES)} files there, "
        "each with a .txt file of the same name that holds its caption"
    )


def named_files(
    folder: Path,
    files: Sequence[str],
    texts: Sequence[Captions | None],
    named_by: Path,
    exclude: Sequence[str] = (),
) -> ImageFiles:
    """Return the files that a table names, under their names on the disk.

    One without captions is dropped, one that is not there is left out. Raises DataError for a name
    that leads out of the folder.
    """
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
    pairs, names, missing = [], set(), []
    for file, found in zip(files, texts, strict=True):
        name = find(str(Path(file)))
        names.add(name)
        if name and found:
            pairs.append((name, found))
        elif found:
            missing.append(
                f"{named_by} names {file[:100]}, which is not in {folder}; put it there, or set "
                "data.images to its folder"
            )
    others = (file for file in sorted(on_disk - names) if not is_excluded(Path(file), exclude))
    unused = tuple(filter(is_image, others))
    return ImageFiles(folder, *_columns(pairs), unused, tuple(missing))


def _columns(
    pairs: Sequence[tuple[str, Captions]],
) -> tuple[tuple[str, ...], tuple[Captions, ...]]:
    return tuple(file for file, _ in pairs), tuple(texts for _, texts in pairs)

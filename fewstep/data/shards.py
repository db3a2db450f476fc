"""Webdataset shards: plain tar files of `key.jpg` with `key.txt`, read where they lie.

A shard is never unpacked and nothing in it is run or unpickled: one look through its headers finds
where each image and caption begins, and reading one is one read at that place.
"""

# of libraries without types
# pyright: reportArgumentType=false

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePosixPath
from tarfile import BLOCKSIZE, TarInfo
from typing import IO

import numpy as np

from fewstep.data.captions import Faults, checked
from fewstep.data.disk import one_spelling
from fewstep.data.errors import DataError
from fewstep.data.folder import CAPTION_SUFFIXES, check_all_read
from fewstep.data.images import SUFFIXES
from fewstep.data.source import digest
from fewstep.data.tar import files_in
from fewstep.files import write_file

BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Shards:
    """Images in tar files. A row of `places` is one pair: its shard, then offset and size of the
    image and of the caption, in bytes."""

    files: tuple[Path, ...]
    places: np.ndarray

    @property
    def identity(self) -> str:
        stats = ((file.name, file.stat()) for file in self.files)
        lines = [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats]
        return digest([*lines, hashlib.sha256(np.ascontiguousarray(self.places)).hexdigest()])

    @property
    def parts(self) -> Sequence[int]:
        return np.bincount(self.places[:, 0], minlength=len(self.files)).tolist()

    def __len__(self) -> int:
        return len(self.places)

    def name(self, number: int) -> str:
        shard, offset, *_ = self.places[number]
        header = _read(self.files[shard], offset - BLOCKSIZE, BLOCKSIZE)
        return f"{self.files[shard]}: {TarInfo.frombuf(header, 'utf-8', 'surrogateescape').name}"

    def captions(self, number: int) -> tuple[str, ...]:
        shard, _, _, offset, size = self.places[number].tolist()
        return (_caption(_read(self.files[shard], offset, size), self.name(number)),)

    def read(self, number: int) -> bytes:
        shard, offset, size, *_ = self.places[number].tolist()
        return _read(self.files[shard], offset, size)

    @property
    def unused(self) -> Sequence[str]:
        return ()

    def pick(self, numbers: Sequence[int]) -> "Shards":
        return Shards(self.files, self.places[np.asarray(numbers, dtype=np.int64)])


def find_shards(path: str) -> tuple[Path, ...]:
    """Return the tar files of a folder, a file, or a pattern such as `shards/{0000..0041}.tar`.

    Raises:
        DataError: if it is a command or an address rather than a file, or one is missing.
    """
    if path.startswith("pipe:") or "://" in path:
        raise DataError(
            f"data.path is {path!r}; shards are read from files alone, no command is run and no "
            "address is opened: copy them to a disk, or mount their store"
        )
    if Path(path).is_dir():
        return tuple(sorted(file for file in Path(path).glob("*.tar") if not file.is_dir()))
    files = tuple(Path(name) for name in _expanded(path))
    if not files:
        raise DataError(f"data.path is {path!r}, which counts down; write the lower number first")
    if missing := [file for file in files if not file.is_file()]:
        raise DataError(f"{len(missing)} of {len(files)} shards are missing, such as {missing[0]}")
    return files


def _expanded(pattern: str) -> Iterator[str]:
    match = BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    first, last = match.groups()
    for number in range(int(first), int(last) + 1):
        yield from _expanded(
            f"{pattern[: match.start()]}{number:0{len(first)}}{pattern[match.end() :]}"
        )


def read_shards(files: Sequence[Path], index: Path | None = None) -> Shards:
    """Look through the headers of every shard, or read in the folder `index` what they hold.

    Raises:
        DataError: if one is damaged or unsafe, or an image has no caption.
    """
    rows = [_indexed(file, index) for file in files]
    number = np.repeat(np.arange(len(files)), [len(part) for part in rows])
    if not len(number):
        raise DataError(
            f"{files[0]} and the others hold no image with a caption: a pair is key.jpg, .png or "
            ".webp with key.txt"
        )
    return Shards(tuple(files), np.column_stack([number, np.concatenate(rows)]))


def _indexed(file: Path, index: Path | None) -> np.ndarray:
    """Return offset and size of each image and caption, [pairs, 4]."""
    stat = file.stat()
    key = digest([f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}"])[:16]
    if index is not None and (path := index / f"{key}.npy").is_file():
        with suppress(ValueError, EOFError):  # of a damaged file, which is made anew
            return np.load(path, allow_pickle=False)
    rows = np.array(_rows(file), dtype=np.int64).reshape(-1, 4)
    if index is not None:
        content = BytesIO()
        np.save(content, rows)
        write_file(index / f"{key}.npy", content.getvalue())
    return rows


def _rows(file: Path) -> list[tuple[int, int, int, int]]:
    images: dict[str, tuple[int, int]] = {}
    texts: dict[str, tuple[int, int]] = {}
    names, faults = [], Faults()
    for member in files_in(file):
        name = PurePosixPath(member.name)
        if name.name.startswith("."):
            continue
        names.append(name)
        key, place = one_spelling(str(name.with_suffix(""))), (member.offset_data, member.size)
        if name.suffix.lower() in SUFFIXES:
            if key in images:
                raise DataError(f"{file} holds two images called {key}; give each its own name")
            images[key] = place
        elif name.suffix.lower() in CAPTION_SUFFIXES:
            with faults.collected():
                _caption(_read(file, *place), f"{file}: {name}")
            texts[key] = place
    check_all_read(names, file)
    faults.reasons += [
        f"{file}: {key} has no caption; add {key}.txt to the shard"
        for key in images
        if key not in texts
    ]
    faults.check()
    return [(*place, *texts[key]) for key, place in images.items()]


def _caption(content: bytes, name: str) -> str:
    try:
        return checked(content.decode("utf-8-sig"), name)
    except UnicodeDecodeError as error:
        raise DataError(
            f"the caption of {name} is not UTF-8 ({error.reason}); save it as UTF-8"
        ) from error


def _read(file: Path, offset: int, size: int) -> bytes:
    return os.pread(_opened(file).fileno(), size, offset)


@lru_cache(maxsize=64)
def _opened(file: Path) -> IO[bytes]:
    return open(file, "rb", buffering=0)

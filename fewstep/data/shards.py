"""Webdataset shards: uncompressed tar files of `key.jpg` with `key.txt`, read in place.

A shard is never unpacked, and nothing in it is run or unpickled: one pass over its headers finds
where each image and caption begins, and reading one is one read at that place.
"""

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO
from zipfile import BadZipFile

import numpy as np

from fewstep.data.base import Source, digest_of_lines
from fewstep.data.captions import attempt, captions_in
from fewstep.data.files import size_and_time
from fewstep.data.members import (
    captions_alone,
    is_caption,
    is_excluded,
    key_of,
    split_images,
    without_image,
)
from fewstep.errors import DataError
from fewstep.files import write_file
from fewstep.text import decoded

PICKLES = (".pkl", ".pickle", ".pyd", ".pth", ".pt")
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
Place = tuple[int, int]
"""Offset and size in bytes."""


@dataclass(frozen=True)
class Shards(Source):
    """Images in tar files.

    A row of `places` is a pair: its shard, then offset and size of image and caption in bytes.
    """

    files: tuple[Path, ...]
    places: np.ndarray
    unused: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """The digest of every shard's name, size and time, and of where pairs are in it."""
        lines = [f"{file.name} {size_and_time(file)}" for file in self.files]
        return digest_of_lines([*lines, hashlib.sha256(self.places.tobytes()).hexdigest()])

    @property
    def parts(self) -> Sequence[int]:
        """How many pairs each shard holds."""
        return np.bincount(self.places[:, 0], minlength=len(self.files)).tolist()

    def __len__(self) -> int:
        return len(self.places)

    def name(self, number: int) -> str:
        """Return the shard's path and the image's name in it."""
        shard, offset, *_ = self.places[number].tolist()
        header = _read(self.files[shard], offset - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE)
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        return f"{self.files[shard]}: {member.name}"

    def captions(self, number: int) -> tuple[str, ...]:
        """Return the captions of an image; see `Captioned.captions`."""
        shard, _, _, offset, size = self.places[number].tolist()
        return _captions(self.name(number), _read(self.files[shard], offset, size))

    def read(self, number: int) -> bytes:
        """Return the image file's content, of the shard's bytes."""
        shard, offset, size, *_ = self.places[number].tolist()
        return _read(self.files[shard], offset, size)

    def pick(self, numbers: Sequence[int]) -> "Shards":
        """Return these pairs alone, in this order."""
        return replace(self, places=self.places[np.asarray(numbers, dtype=np.int64)])


def is_shards(path: str) -> bool:
    """Return whether a name is that of a tar file, of several, or of what would yield one."""
    return path.endswith(".tar") or path.startswith("pipe:") or "://" in path


def find_shards(path: str) -> tuple[Path, ...]:
    """Return the tar files of a folder, a file, or a pattern such as `shards/{0000..0041}.tar`.

    A command, an address, and a missing file are a DataError.
    """
    if path.startswith("pipe:") or "://" in path:
        raise DataError(
            f"data.path is {path!r}; shards are read from files alone, no command is run and no "
            "address is opened: copy them to a disk, or mount their store"
        )
    if Path(path).is_dir():
        return tuple(sorted(file for file in Path(path).glob("*.tar") if not file.is_dir()))
    files = tuple(Path(name) for name in expanded(path))
    if not files:
        raise DataError(f"data.path is {path!r}, which counts down; write the lower number first")
    if missing := [file for file in files if not file.is_file()]:
        raise DataError(f"{len(missing)} of {len(files)} shards are missing, such as {missing[0]}")
    return files


def expanded(pattern: str) -> Iterator[str]:
    """Yield the names that a pattern such as `shards/{0000..0041}.tar` stands for."""
    if (match := BRACES.search(pattern)) is None:
        yield pattern
        return
    first, last = match.groups()
    for number in range(int(first), int(last) + 1):
        digits = f"{number:0{len(first)}}"
        yield from expanded(pattern[: match.start()] + digits + pattern[match.end() :])


def read_shards(
    files: Sequence[Path], index: Path | None = None, exclude: Sequence[str] = ()
) -> Shards:
    """Scan the headers of every shard, or read in the folder `index` what an earlier scan found.

    Members whose names match `exclude` are not looked at. Damaged and unsafe shards, and those
    without any sample, are a DataError.
    """
    scans = [_indexed(file, index, exclude) for file in files]
    left_out = tuple(reason for scan in scans for reason in scan.left_out)
    unused = tuple(name for scan in scans for name in scan.unused)
    number = np.repeat(np.arange(len(files)), [len(scan.rows) for scan in scans])
    if not (len(number) or left_out):
        raise DataError(
            f"{files[0]}{' and the others hold' if len(files) > 1 else ' holds'} no image with a "
            "caption: a pair is key.jpg, .png or .webp with key.txt"
        )
    places = np.column_stack([number, np.concatenate([scan.rows for scan in scans])])
    return Shards(tuple(files), places, unused, left_out)


@dataclass(frozen=True)
class Scan:
    """What one shard holds: offset and size of each image and caption, [pairs, 4], and the rest."""

    rows: np.ndarray
    left_out: Sequence[str]
    unused: Sequence[str]


def count_images(files: Sequence[Path], exclude: Sequence[str] = ()) -> int:
    """Return how many images the shards hold, by their headers alone; raise as `read_shards`."""
    return sum(
        len(split_images([name for name, _ in _looked_at(file, exclude)])[0]) for file in files
    )


def _indexed(file: Path, index: Path | None, exclude: Sequence[str]) -> Scan:
    path = None
    if index is not None:
        about = [f"{file.resolve()} {size_and_time(file)}", *exclude]
        path = index / f"{digest_of_lines(about)[:16]}.npz"
        with suppress(ValueError, EOFError, KeyError, FileNotFoundError, BadZipFile):  # made again
            content = np.load(path, allow_pickle=False)
            return Scan(content["rows"], **json.loads(content["names"].tobytes()))
    scan = _scan(file, exclude)
    if path is not None:
        names = json.dumps({"left_out": scan.left_out, "unused": scan.unused}).encode()
        content = BytesIO()
        np.savez(content, rows=scan.rows, names=np.frombuffer(names, dtype=np.uint8))
        write_file(path, content.getvalue())
    return scan


def _scan(file: Path, exclude: Sequence[str]) -> Scan:
    members = _looked_at(file, exclude)
    names = [name for name, _ in members]
    images, sidecars = split_images(names)
    places: dict[str, Place] = {}
    texts: dict[str, tuple[PurePosixPath, Place]] = {}
    chosen = set(images)
    for name, place in members:
        key = key_of(name)
        if name in chosen:
            if key in places:
                raise DataError(f"{file} holds two images called {key}; give each its own name")
            places[key] = place
        elif is_caption(name):
            texts[key] = name, place
    found, left_out = attempt(partial(_captions_of, file, texts), ((key,) for key in places))
    alone = captions_alone(names, [*images, *sidecars])
    left_out += [without_image(f"{file}: {name}", alone[name]) for name in alone]
    rows = [(*places[key], *texts[key][1])
            for key, usable in zip(places, found, strict=True) if usable]  # fmt: skip
    of_sidecars = set(map(key_of, sidecars)) - places.keys()
    unused = [f"{file.name}: {name}" for name in names if key_of(name) in of_sidecars]
    return Scan(np.array(rows, dtype=np.int64).reshape(-1, 4), left_out, unused)


def _looked_at(file: Path, exclude: Sequence[str]) -> list[tuple[PurePosixPath, Place]]:
    return [
        (name, (member.offset_data, member.size))
        for member in _members(file)
        if not (name := PurePosixPath(member.name)).name.startswith(".")
        and not is_excluded(name, exclude)
    ]


def _captions_of(
    file: Path, texts: Mapping[str, tuple[PurePosixPath, Place]], key: str
) -> tuple[str, ...]:
    if key not in texts:
        raise DataError(f"{file}: {key} has no caption; add {key}.txt to the shard")
    name, place = texts[key]
    return _captions(f"{file}: {name}", _read(file, *place))


def _members(file: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of the files in a tar; raise DataError if it is damaged or unsafe."""
    try:
        with tarfile.open(file, "r:") as tar:
            end = file.stat().st_size
            for member in tar:
                _check_safe(member, file)
                if member.offset_data + member.size > end:
                    raise DataError(f"{file} is cut off inside {member.name}; copy it again")
                if member.isfile():
                    yield member
            _check_end(file, tar.offset)
    except tarfile.TarError as error:
        raise DataError(
            f"cannot read {file}: {error}; shards are uncompressed tar files, copied to their end"
        ) from error


def _check_end(file: Path, last: int) -> None:
    """Refuse a tar that does not end in zeros: tarfile takes a damaged header for its end."""
    with open(file, "rb") as content:
        content.seek(last)
        size, is_zero = 0, True
        while is_zero and (rest := content.read(2**20)):
            size, is_zero = size + len(rest), not any(rest)
    if not is_zero or size < tarfile.BLOCKSIZE:
        raise DataError(
            f"{file} is damaged or cut off at byte {last}, or more than one tar; copy it again, or "
            "make it again"
        )


def _check_safe(member: tarfile.TarInfo, file: Path) -> None:
    name, fault = PurePosixPath(member.name), None
    if name.is_absolute() or ".." in name.parts:
        fault = "which leads out of it; make it again"
    elif not (member.isfile() or member.isdir()):
        fault = "a link or device; put the file itself in"
    elif name.suffix.lower() in PICKLES:
        fault = "a pickle, which can run code; leave it out"
    if fault:
        raise DataError(f"{file} holds {member.name!r}, {fault}")


def _captions(name: str, content: bytes) -> tuple[str, ...]:
    return captions_in(name, decoded(content, f"the caption of {name}"))


def _read(file: Path, offset: int, size: int) -> bytes:
    return os.pread(_opened(file).fileno(), size, offset)


@lru_cache(maxsize=64)
def _opened(file: Path) -> IO[bytes]:
    return open(file, "rb", buffering=0)

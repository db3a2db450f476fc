"""Where captioned images lie: the protocol of a source, and the one of files on a disk."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from fewstep.data.disk import read_file
from fewstep.data.errors import ImageError

LARGEST = 2**30
"""Bytes of an image's file: more than 100 megapixels have in any format."""


class Captioned(Protocol):
    """Numbered captions, in parts that lie together: what sources, pairs and prompts share."""

    @property
    def identity(self) -> str:
        """A digest of all that a cache of these depends on."""
        ...

    @property
    def parts(self) -> Sequence[int]:
        """How many lie together, in order: reading goes from part to part."""
        ...

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """Return what a message calls it."""
        ...

    def captions(self, number: int) -> tuple[str, ...]: ...


class Source(Captioned, Protocol):
    """Captions with images as they lie there."""

    @property
    def unused(self) -> Sequence[str]:
        """The files beside them that belong to no pair."""
        ...

    def read(self, number: int) -> bytes:
        """Return the image's bytes, as they lie there, or raise a ImageError."""
        ...

    def pick(self, numbers: Sequence[int]) -> Self:
        """Return the source of these alone, in this order."""
        ...


@dataclass(frozen=True)
class ImageFiles:
    """Image files below a folder, with their captions in memory."""

    folder: Path
    files: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    unused: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        return digest(
            f"{file} {_size_and_time(self.folder / file)} {texts}"
            for file, texts in zip(self.files, self.texts, strict=True)
        )

    @property
    def parts(self) -> Sequence[int]:
        return (len(self.files),)

    def __len__(self) -> int:
        return len(self.files)

    def name(self, number: int) -> str:
        return str(self.folder / self.files[number])

    def captions(self, number: int) -> tuple[str, ...]:
        return self.texts[number]

    def read(self, number: int) -> bytes:
        return read_image(self.folder / self.files[number])

    def pick(self, numbers: Sequence[int]) -> "ImageFiles":
        return ImageFiles(
            self.folder,
            tuple(self.files[i] for i in numbers),
            tuple(self.texts[i] for i in numbers),
            self.unused,
        )


def digest(lines: Iterable[str]) -> str:
    """Return the sha256 of lines of text."""
    sha = hashlib.sha256()
    for line in lines:
        sha.update(line.encode(errors="surrogateescape") + b"\n")  # of a name that is not UTF-8
    return sha.hexdigest()


def read_image(path: Path) -> bytes:
    """Return an image's bytes.

    Raises:
        ImageError: if they cannot be read.
    """
    try:
        return read_file(path, LARGEST)
    except OSError as error:
        raise ImageError(f"it cannot be read: {error.strerror}") from error


def _size_and_time(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return "unreadable"  # an image to skip, such as a link to nothing
    return f"{stat.st_size} {stat.st_mtime_ns}"

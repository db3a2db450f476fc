"""What all readers of data share: two errors, and what a source of captioned images offers."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Protocol, Self

from fewstep.errors import DataError


class ImageError(DataError):
    """One image that cannot be used: it is left out, counted and listed."""


class Captioned(Protocol):
    """Numbered captions; `identity` is a digest of everything that a cache of them depends on."""

    @property
    def identity(self) -> str:
        """The digest; it changes with any file, caption or setting."""
        ...

    @property
    def parts(self) -> Sequence[int]:
        """How many are stored together, in order: samples are read part by part."""
        return (len(self),)

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """Return what a message calls a pair: its file, row or line."""
        ...

    def captions(self, number: int) -> tuple[str, ...]:
        """Return the captions of a pair, one or more."""
        ...


class Source(Captioned, Protocol):
    """Captions with image files.

    `left_out` says of each sample without a usable caption or an image what it lacks; `unused`
    names the files that belong to no sample.
    """

    unused: Sequence[str] = ()
    left_out: Sequence[str] = ()

    def read(self, number: int) -> bytes:
        """Return the image file's content, or raise an ImageError."""
        ...

    def pick(self, numbers: Sequence[int]) -> Self:
        """Return a source of these pairs alone, in this order."""
        ...


def digest_of_lines(lines: Iterable[str]) -> str:
    """Return the sha256 of lines of text."""
    sha = hashlib.sha256()
    for line in lines:
        sha.update(line.encode(errors="surrogateescape") + b"\n")  # a name may not be UTF-8
    return sha.hexdigest()

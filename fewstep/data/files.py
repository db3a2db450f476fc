"""Files on a disk: errors are never hidden, pipes never waited for, spellings of names matched."""

import errno
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path, PurePath

from fewstep.data.base import ImageError
from fewstep.errors import DataError
from fewstep.text import one_spelling

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
CAPTION_SUFFIXES = (".txt", ".caption")

MAX_IMAGE_BYTES = 2**30
"""More than 100 megapixels take in any format."""


def files_below(folder: Path) -> list[Path]:
    """Return the files below a folder, relative to it and sorted, without hidden ones.

    A folder in it that cannot be read, or is a link, is a DataError.
    """

    def refuse(error: OSError) -> None:
        raise DataError(
            f"cannot read the folder {error.filename}: {error.strerror}; change its permissions, "
            "or move it away"
        ) from error

    found: list[Path] = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if link := next(filter(Path.is_symlink, (Path(parent, name) for name in folders)), None):
            raise DataError(
                f"{link} is a link to a folder, which is not followed; move its files here"
            )
        found += [Path(parent, name) for name in files if not name.startswith(".")]
    return sorted(path.relative_to(folder) for path in found)


def read_file(path: Path, max_bytes: int | None = None) -> bytes:
    """Return a file's content; pipes and devices, which might never end, are an OSError."""
    status = path.stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise OSError(errno.EINVAL, "it is a pipe or device", str(path))
    if max_bytes is not None and status.st_size > max_bytes:
        raise OSError(errno.EFBIG, f"it has more than {max_bytes // 10**6} MB", str(path))
    return path.read_bytes()


def read_image(path: Path) -> bytes:
    """Return an image file's content, or raise an ImageError."""
    try:
        return read_file(path, MAX_IMAGE_BYTES)
    except OSError as error:
        raise ImageError(f"it cannot be read: {error.strerror}") from error


def size_and_time(path: Path) -> str:
    """Return a file's size and its time of change, as an identity has them."""
    try:
        status = path.stat()
    except OSError:
        return "unreadable"  # an image to skip, such as a link to nothing
    return f"{status.st_size} {status.st_mtime_ns}"


def finder(names: Iterable[str]) -> Callable[[str], str | None]:
    """Return a lookup of a name among these: itself, or else the same in another spelling."""
    exact = set(names)
    composed = {one_spelling(name): name for name in exact}
    return lambda name: name if name in exact else composed.get(one_spelling(name))


def is_image(file: PurePath | str) -> bool:
    """Return whether a file's name is that of an image."""
    return PurePath(file).suffix.lower() in IMAGE_SUFFIXES

"""Files as they lie on a disk: none is hidden by an error, waited for, or lost by its spelling."""

import errno
import os
import stat
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from fewstep.data.errors import DataError


def files_below(folder: Path) -> list[Path]:
    """Return the files below a folder, relative to it and in order, without those that are hidden.

    Raises:
        DataError: if a folder in it cannot be read, or is a link.
    """

    def refuse(error: OSError) -> None:
        raise DataError(
            f"cannot read the folder {error.filename}: {error.strerror}; allow it, or move it away"
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


def read_file(path: Path, largest: int | None = None) -> bytes:
    """Return a file's bytes.

    Raises:
        OSError: if it cannot be read, has more bytes than `largest`, or is a pipe or device, which
            might never end.
    """
    status = path.stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise OSError(errno.EINVAL, "it is a pipe or device", str(path))
    if largest is not None and status.st_size > largest:
        raise OSError(errno.EFBIG, f"it has more than {largest // 10**6} MB", str(path))
    return path.read_bytes()


def one_spelling(name: str) -> str:
    """Return a name with each accent and its letter as one character; macOS makes them two."""
    return unicodedata.normalize("NFC", name)


def finder(names: Iterable[str]) -> Callable[[str], str | None]:
    """Return what finds a name among these: itself, or else the same in another spelling."""
    there = set(names)
    spelt = {one_spelling(name): name for name in there}
    return lambda name: name if name in there else spelt.get(one_spelling(name))


def find_named(
    folder: Path, files: Sequence[str], named_by: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names that files have on the disk, and those of the others beside them.

    Raises:
        DataError: if a name leads out of the folder, or nothing lies under it; for the first of
            them, with the folder they are looked for in.
    """
    strays = [file for file in files if Path(file).is_absolute() or ".." in Path(file).parts]
    if strays:
        raise DataError(f"{named_by} names {strays[0]!r}, which leads out of {folder}; mend it")
    there = {
        str(parent / entry.name)
        for parent in {Path(file).parent for file in files}
        if (folder / parent).is_dir()
        for entry in os.scandir(folder / parent)
        if not entry.is_dir()
    }
    find = finder(there)
    found = [find(str(Path(file))) for file in files]
    missing = [file for file, name in zip(files, found, strict=True) if name is None]
    if missing:
        raise DataError(
            f"{named_by} names {len(files)} images, and {len(missing)} of them are not in "
            f"{folder}, such as {missing[0]}; put them there, or set data.images to their folder"
        )
    names = tuple(name for name in found if name is not None)
    return names, tuple(sorted(there - set(names)))

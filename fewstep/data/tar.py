"""The files in a tar, by their headers; what could harm, or was not copied whole, is refused."""

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fewstep.data.errors import DataError

PICKLES = (".pkl", ".pickle", ".pyd", ".pth", ".pt")
AT_ONCE = 2**20


def files_in(file: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of the files in an uncompressed tar.

    Raises:
        DataError: if it is damaged, was cut off, or holds what could harm if it were unpacked.
    """
    try:
        with tarfile.open(file, "r:") as tar:
            end = file.stat().st_size
            for member in tar:
                _check_safe(member, file)
                if member.offset_data + member.size > end:
                    raise DataError(f"{file} is cut off inside {member.name}; copy it again")
                if member.isfile():
                    yield member
            _check_ended(file, tar.offset)
    except tarfile.TarError as error:
        raise DataError(
            f"cannot read {file}: {error}; shards are uncompressed tar files, copied to their end"
        ) from error


def _check_ended(file: Path, last: int) -> None:
    """Refuse a tar without its end, a block of zeros: tarfile takes a damaged header for it."""
    with open(file, "rb") as content:
        content.seek(last)
        rest = content.read(tarfile.BLOCKSIZE)
        is_ended = len(rest) == tarfile.BLOCKSIZE
        while is_ended and rest:
            is_ended, rest = not any(rest), content.read(AT_ONCE)
    if not is_ended:
        raise DataError(
            f"{file} is damaged or cut off at byte {last}, or more than one tar; copy it again, or "
            "make it anew"
        )


def _check_safe(member: tarfile.TarInfo, file: Path) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise DataError(f"{file} holds {member.name!r}, which leads out of it; make it anew")
    if not (member.isfile() or member.isdir()):
        raise DataError(f"{file} holds {member.name!r}, a link or device; put the file itself in")
    if name.suffix.lower() in PICKLES:
        raise DataError(f"{file} holds {member.name!r}, a pickle, which can run code; leave it out")

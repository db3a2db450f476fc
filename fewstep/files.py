"""Writing that is whole or not at all: a reader never meets half a file or half a folder."""

import errno
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fewstep.errors import UserError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""The errors of a disk, or a share of it, that has no room."""


class NotWrittenError(OSError):
    """Something was not written; what was there before, and all else that was saved, is whole."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say of an error of the system within the block that `path` was not written.

    Raises:
        NotWrittenError: naming the path, the reason and the way out.
    """
    try:
        yield
    except OSError as error:
        cause = error.__cause__ if isinstance(error, NotWrittenError) else error  # of a file in it
        number, reason = getattr(cause, "errno", None), getattr(cause, "strerror", None)
        reason = reason or " ".join(str(cause).split())
        hint = "make room" if number in FULL else "make it writable, or choose another place"
        raise NotWrittenError(
            f"{path} was not written: {reason}; what was saved before is whole: {hint}, and run "
            "the same command again"
        ) from error


def write_file(path: Path, content: str | bytes) -> None:
    """Write beside, flush to the disk, then rename into place.

    Raises:
        OSError: if it cannot be written, or the path is a folder's.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder; name a file", str(path))
    writer = f"{socket.gethostname()}.{os.getpid()}"  # runs on several nodes may share a cache
    beside = path.with_name(f".{path.name}.{writer}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(beside, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            with suppress(OSError):  # of a disk that cannot be written, which the block says
                beside.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove below a folder what killed processes of this machine left half-written there.

    Files of processes that run, or ran elsewhere, are kept. Nobody else may fill a folder below it.
    """
    for part in [*folder.rglob(".*.part")]:
        if part.is_dir():
            shutil.rmtree(part)
        elif (writer := _writer(part)) is not None and not _runs(writer):
            part.unlink(missing_ok=True)


def _writer(part: Path) -> int | None:
    """Return the number of the process of this machine that wrote a file beside another."""
    name, _, number = part.name.removesuffix(".part").rpartition(".")
    own = name.endswith(f".{socket.gethostname()}") and number.isdecimal()
    return int(number) if own else None


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """Return what a file of JSON holds; where it is missing it is made and written first."""
    if not path.exists():
        write_file(path, json.dumps(make()))
    return json.loads(path.read_text())


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write into a folder beside, then rename it into place, replacing an old one.

    The old one is put back if that fails, or here if it was killed in between the last time.
    A folder is written by one process at a time; files may be by several. All its files get the
    mode that a new file has here, as some libraries let nobody else read theirs.
    """
    beside, old = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.old")
    with writing(path):
        try:
            _put_back(old, path)
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            fill(beside)
            _flush(beside)
            if path.exists():
                os.replace(path, old)
            os.replace(beside, path)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
            with suppress(OSError):
                _put_back(old, path)


def _flush(folder: Path) -> None:
    """Have all files on the disk, in the mode that new ones have here: what the umask leaves."""
    mode = folder.stat().st_mode & 0o666
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(mode)
            with open(file, "rb+") as handle:
                os.fsync(handle.fileno())


def _put_back(old: Path, path: Path) -> None:
    """Undo the first half of a replacement, or clean up after a whole one."""
    if old.exists() and not path.exists():
        os.replace(old, path)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def locked(folder: Path, busy: str) -> Iterator[None]:
    """Keep other processes out of a folder, which is made if it is missing.

    The lock is the system's: it ends with the process, also one that is killed.

    Raises:
        UserError: with the message `busy`, if another process holds it.
    """
    with writing(folder / ".lock"):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(folder / ".lock").acquire(timeout=0)
        except Timeout:
            raise UserError(busy) from None
    with lock:
        yield


def sha256_of(path: Path) -> str:
    """Return a file's sha256, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_writable(folder: Path, needed_bytes: int = 0) -> None:
    """Refuse a folder that cannot be written to, or whose disk is too full, before any work.

    It is not made: where it does not exist, its nearest parent is looked at.

    Raises:
        OSError: naming the folder and what stands in the way.
    """
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        probe = nearest / ".fewstep-probe"
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)  # another run may have looked at the same time
    except OSError as error:
        raise OSError(
            f"cannot write to {folder}: {error.strerror}; choose another folder"
        ) from error
    free = shutil.disk_usage(nearest).free
    if free < needed_bytes:
        raise OSError(
            f"the disk of {folder} has {free // 10**6} MB left and {-(-needed_bytes // 10**6)} MB "
            "are needed; make room or choose another folder"
        )

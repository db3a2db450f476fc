"""The memory of this machine, and what is refused because it cannot fit there."""

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from fewstep.errors import UserError

CGROUPS = Path("/sys/fs/cgroup")
NO_LIMIT = 2**60
"""Bytes from which on a limit is none: version 1 of cgroups has a huge number instead."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt (malloc.h)."""


def available_memory() -> int:
    """Return the bytes that this process can still have before the system kills it, with swap.

    A container's or a batch job's limit counts as well as what the machine has.
    """
    machine = psutil.virtual_memory().available + psutil.swap_memory().free
    return max(0, min([machine, *limits(CGROUPS, Path("/proc/self/cgroup"))]))


def limits(root: Path, membership: Path) -> Iterator[int]:
    """Yield what the control groups of this process leave it, of either version."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # there are no control groups, as on macOS
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            own = root / controllers / path.lstrip("/")
            for folder in (own, *own.parents):
                if folder.is_relative_to(root / controllers):
                    yield from _left(folder)


def _left(group: Path) -> Iterator[int]:
    """Yield the bytes that one control group leaves; what is cached from files is given back."""
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, now = (group / limit).read_text().strip(), (group / used).read_text()
            rows = dict(row.split() for row in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        if most != "max" and int(most) < NO_LIMIT:
            yield int(most) - int(now) + int(rows.get(cached, 0))


def in_words(size: float) -> str:
    """Return a number of bytes of memory in a unit that shows it.

    >>> in_words(3 * 2**30), in_words(5.5 * 2**20), in_words(200)
    ('3.00 GiB', '5.50 MiB', '0.20 KiB')
    """
    for unit, power in (("GiB", 30), ("MiB", 20)):
        if size >= 2**power:
            return f"{size / 2**power:.2f} {unit}"
    return f"{size / 2**10:.2f} KiB"


def check_loading(needed: int, base: object) -> None:
    """Refuse, before they are read, weights that main memory has no room for.

    Raises:
        UserError: naming what is needed and what is free.
    """
    if needed > (free := available_memory()):
        raise UserError(
            f"the weights of {base} take {in_words(needed)} of main memory while they are loaded, "
            f"and {in_words(free)} are free here: end other programs, or use a larger machine"
        )


def keep_freed_memory() -> None:
    """Let this process reuse the main memory that it frees, where its C library is glibc.

    Each training step frees the tensors that the next one asks for. glibc gives large ones back to
    the system, which zeroes their pages when they are asked for again.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)  # the largest value; peak memory stays the same
        mallopt(M_MMAP_THRESHOLD, 2**25)  # the largest that it takes

"""The text files that hold captions, and all their faults at once."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fewstep.console import counted
from fewstep.data.files import read_file
from fewstep.errors import DataError
from fewstep.text import checked, decoded, numbered_lines


class SampleErrors(DataError):
    """All samples of a dataset that cannot be used; the message has the first three."""

    def __init__(self, reasons: Sequence[str], summary: str) -> None:
        self.reasons = reasons
        super().__init__("; ".join([*reasons[:3], summary]))


def attempt(
    read: Callable[..., Any], rows: Iterable[tuple[Any, ...]]
) -> tuple[list[Any], list[str]]:
    """Return `read(*row)` for every row, None where it raises a DataError, and all of these."""
    found, reasons = [], []
    for row in rows:
        try:
            found.append(read(*row))
        except DataError as error:
            found.append(None)
            reasons.append(str(error))
    return found, reasons


def collect(read: Callable[..., Any], rows: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Return `read(*row)` for every row; raise SampleErrors with all its DataErrors at once."""
    found, reasons = attempt(read, rows)
    if reasons:
        many = f"{counted(len(reasons), 'caption')} in all: fewstep data check lists them"
        raise SampleErrors(reasons, many)
    return found


def check_left_out(left_out: Sequence[str], num_usable: int, max_skipped: float) -> None:
    """Raise SampleErrors if a larger part of the samples is left out than `max_skipped`."""
    total = num_usable + len(left_out)
    if len(left_out) > max_skipped * total:
        raise SampleErrors(
            left_out,
            f"{len(left_out)} of {counted(total, 'sample')} cannot be used, and data.max_skipped = "
            f"{max_skipped:g} allows {int(max_skipped * total)}: fix them (fewstep data check "
            "lists all), raise data.max_skipped, or leave files out with data.exclude",
        )


def read_text(path: Path) -> str:
    """Return a file's text, or raise a DataError."""
    try:
        return decoded(read_file(path), str(path))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """Yield "path line n" and the line for each line that is not blank."""
    return numbered_lines(read_text(path), str(path))


def captions_in(name: str, text: str) -> tuple[str, ...]:
    """Return the captions of an image's text file: each line that is not blank is one.

    Raises DataError as `checked`, which the whole text has to pass too.
    """
    whole = checked(name, text)
    return tuple(checked(where, line) for where, line in numbered_lines(whole, name))


def parse_json(text: str, where: str) -> Any:
    """Return the value that JSON text holds, or raise a DataError."""
    try:
        return json.loads(text)
    except ValueError as error:  # of a number with thousands of digits too
        raise DataError(f"{where} is not JSON: {error}; was it copied to its end?") from error
    except RecursionError as error:
        raise DataError(f"{where} is nested too deep to be read; is it the right file?") from error

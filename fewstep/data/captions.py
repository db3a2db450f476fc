"""The text files that hold captions, and all their faults at once."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from fewstep.data.files import read_file
from fewstep.errors import DataError
from fewstep.text import checked, decoded, numbered_lines


class CaptionErrors(DataError):
    """All captions of a dataset that cannot be used; the message has the first five."""

    def __init__(self, reasons: list[str]) -> None:
        self.reasons = reasons
        more = f"; {len(reasons)} captions in all: fewstep data check lists them"
        super().__init__("; ".join(reasons[:5]) + (more if len(reasons) > 1 else ""))


def collect(read: Callable[..., Any], rows: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Return `read(*row)` for every row; raise CaptionErrors with all its DataErrors at once."""
    found, reasons = [], []
    for row in rows:
        try:
            found.append(read(*row))
        except DataError as error:
            reasons.append(str(error))
    if reasons:
        raise CaptionErrors(reasons)
    return found


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

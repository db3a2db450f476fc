"""What counts as a caption."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fewstep.data.disk import one_spelling, read_file
from fewstep.data.errors import DataError

LONGEST = 4000
"""Characters; a text encoder reads some 300, and what is far longer is another file."""


class CaptionErrors(DataError):
    """All captions of a set that cannot be used; the message has the first of them."""

    def __init__(self, reasons: list[str], listed: int = 5) -> None:
        self.reasons = reasons
        more = f"; {len(reasons)} captions in all: fewstep data check lists them"
        super().__init__("; ".join(reasons[:listed]) + (more if len(reasons) > 1 else ""))


class Faults:
    """Collects what is wrong with the captions of a set, to say it of all of them at once."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Note an error about data and go on after the block."""
        try:
            yield
        except DataError as error:
            self.reasons.append(str(error))

    def check(self) -> None:
        """Raise CaptionErrors if there were any."""
        if self.reasons:
            raise CaptionErrors(self.reasons)


def checked(caption: object, name: str) -> str:
    """Return a caption without the white space around it, in Unicode's composed spelling.

    Raises:
        DataError: if it is missing, empty, or no caption at all; `name` says whose it is.
    """
    if not isinstance(caption, str) or not caption.strip():
        what = "no caption" if caption is None else f"the caption {caption!r}"
        raise DataError(f"{name} has {what}; write one, or remove the image")
    caption = one_spelling(caption.strip())
    if len(caption) > LONGEST:
        raise DataError(
            f"the caption of {name} has {len(caption)} characters, more than {LONGEST}; is it the "
            "right file? Shorten it"
        )
    try:
        caption.encode()
    except UnicodeEncodeError as error:
        half = caption[error.start]
        raise DataError(
            f"the caption of {name} holds {half!r}, half a character; write it anew as UTF-8"
        ) from error
    return caption


def read_text(path: Path) -> str:
    """Return a file's text.

    Raises:
        DataError: if it cannot be read, or is not UTF-8.
    """
    try:
        return read_file(path).decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason}); save it as UTF-8") from error


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not empty with their numbers, from 1.

    A line ends where an editor ends it: what else Python splits at, JSON and prompts may hold.
    """
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield number, line


def parsed(text: str, where: str) -> object:
    """Return what JSON says.

    Raises:
        DataError: if it does not parse; `where` says what it is.
    """
    try:
        return json.loads(text)
    except ValueError as error:  # of a number with thousands of digits too
        raise DataError(f"{where} is not JSON: {error}; was it copied to its end?") from error
    except RecursionError as error:
        raise DataError(f"{where} is nested too deep to be read; is it the right file?") from error

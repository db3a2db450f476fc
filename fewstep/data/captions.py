"""What counts as a caption, and the text files that hold captions."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from fewstep.data.base import DataError
from fewstep.data.files import one_spelling, read_file

MAX_LENGTH = 4000
"""Characters. A text encoder reads about 300; anything far longer is the wrong file."""


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


def checked(name: str, caption: object) -> str:
    """Return a caption without surrounding white space, in Unicode's composed form (NFC).

    Raises:
        DataError: if it is missing, empty, too long or not text; `name` says whose it is.
    """
    if not isinstance(caption, str) or not caption.strip():
        what = "no caption" if caption is None else f"the caption {caption!r}"
        raise DataError(f"{name} has {what}; write one, or remove the image")
    caption = one_spelling(caption.strip())
    if len(caption) > MAX_LENGTH:
        raise DataError(
            f"the caption of {name} has {len(caption)} characters, more than {MAX_LENGTH}; is it "
            "the right file? Shorten it"
        )
    try:
        caption.encode()
    except UnicodeEncodeError as error:
        half = caption[error.start]
        raise DataError(
            f"the caption of {name} holds {half!r}, half a character; save it as UTF-8"
        ) from error
    return caption


def decoded(content: bytes, name: str) -> str:
    """Return UTF-8 as text, or raise a DataError."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 ({error.reason}); save it as UTF-8") from error


def read_text(path: Path) -> str:
    """Return a file's text, or raise a DataError."""
    try:
        return decoded(read_file(path), str(path))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def numbered_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield "path line n" and the line for each line that is not empty.

    Lines end at "\\n" alone: JSON and prompts may hold the others that `splitlines` knows.
    """
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield f"{path} line {number}", line


def parse_json(text: str, where: str) -> Any:
    """Return the value that JSON text holds, or raise a DataError."""
    try:
        return json.loads(text)
    except ValueError as error:  # of a number with thousands of digits too
        raise DataError(f"{where} is not JSON: {error}; was it copied to its end?") from error
    except RecursionError as error:
        raise DataError(f"{where} is nested too deep to be read; is it the right file?") from error

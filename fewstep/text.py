"""The one reader of text that people write: prompts, captions and settings."""

import codecs
import io
import unicodedata
from collections.abc import Iterator

from fewstep.errors import DataError

MAX_LENGTH = 4000
"""Characters of a caption or prompt; anything far longer is the wrong file."""

OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def decoded(content: bytes, name: str) -> str:
    """Return UTF-8 as text, without a byte order mark, or raise a DataError."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        marks = (name for mark, name in OTHER_ENCODINGS.items() if content.startswith(mark))
        found = next(marks, None)
        fault = f"is in {found}" if found else f"is not UTF-8 ({error.reason})"
        raise DataError(f"{name} {fault}; save it as UTF-8") from error
    if "\0" in text:
        raise DataError(f"{name} holds null characters, as UTF-16 does; save it as UTF-8")
    return text


def numbered_lines(text: str, name: str) -> Iterator[tuple[str, str]]:
    """Yield "name line n" and the line for each line that is not blank.

    Lines end as editors end them; U+2028 and the others that `splitlines` knows are text.
    """
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        if line.strip():
            yield f"{name} line {number}", line.removesuffix("\n")


def one_spelling(text: str) -> str:
    """Return text with each accent and its letter as one character; macOS writes two."""
    return unicodedata.normalize("NFC", text)


def checked(name: str, caption: object) -> str:
    """Return a caption or prompt without surrounding white space, in Unicode's composed form (NFC).

    Raises:
        DataError: if it is missing, empty, too long or not text; `name` says whose it is.
    """
    if not isinstance(caption, str | None):
        what = f"the caption {repr(caption)[:60]}"
        raise DataError(f"{name} has {what}, which is no text; write it as text, in quotes")
    if caption is None or not caption.strip():
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

"""What counts as a caption."""

from pathlib import Path

from fewstep.data.errors import DataError

LONGEST = 4000
"""Characters; a text encoder reads some 300, and what is far longer is another file."""


def checked(caption: object, name: str) -> str:
    """Return a caption without the white space around it.

    Raises:
        DataError: if it is missing, empty, or no caption at all; `name` says whose it is.
    """
    if not isinstance(caption, str) or not caption.strip():
        what = "no caption" if caption is None else f"the caption {caption!r}"
        raise DataError(f"{name} has {what}; write one, or remove the picture")
    caption = caption.strip()
    if len(caption) > LONGEST:
        raise DataError(
            f"the caption of {name} has {len(caption)} characters, more than {LONGEST}; is it the "
            "right file? Shorten it"
        )
    return caption


def read_text(path: Path) -> str:
    """Return a file's text.

    Raises:
        DataError: if it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason}); save it as UTF-8") from error

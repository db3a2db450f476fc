"""What every broken input has to end in: an error of the user's in one sentence, and no file."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fewstep.__main__ import explain
from fewstep.errors import UserError

LONGEST = 700
"""Characters: a value of the user's is quoted, but never a whole file."""


def refused(call: Callable[[], object], *words: str) -> str:
    """Check that the call raises a UserError with these words, and return it as it is shown."""
    with pytest.raises(UserError) as told:
        call()
    message = explain(told.value)
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in: {message}"
    assert "Traceback" not in message
    assert len(message) <= LONGEST, message
    return message


def files_in(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder: a refused input changes none of them."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}

"""What a cache was made from: the name of its folder, and what has changed since."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fewstep.data.cache import FINGERPRINT, INDEX
from fewstep.errors import DataError
from fewstep.files import remove_unfinished, write_file

UNNAMED = {"long_prompts": "cut", "quantize": "none"}
"""What holds of a cache that does not name it."""


@dataclass(frozen=True)
class Fingerprint:
    """Everything that decides what a cache holds, by name, and the libraries that made it."""

    made_from: Mapping[str, Any]
    versions: Mapping[str, str]
    path: str = ""
    """Where the data were; no part of the key."""

    @property
    def key(self) -> str:
        """The name of the cache's folder, which depends on all but the versions and the path."""
        text = json.dumps(dict(self.made_from), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def claim_cache(root: Path, fingerprint: Fingerprint) -> list[str]:
    """Make the cache's folder below `root`, or check that the one there is of the same data.

    Half-written files of processes that were killed are removed.

    Returns notes for the user: how other caches of these data differ, which libraries have changed.

    Raises:
        DataError: if the folder holds another cache, or half of one by other libraries.
    """
    folder = root / fingerprint.key
    remove_unfinished(folder)
    if not (folder / FINGERPRINT).is_file():
        others = [(path.parent, _read(path)) for path in sorted(root.glob(f"*/{FINGERPRINT}"))]
        text = json.dumps(asdict(fingerprint), indent=2, sort_keys=True) + "\n"
        write_file(folder / FINGERPRINT, text)
        return [
            f"encoding again: the cache in {other_folder} is another "
            f"({_changes(other.made_from, fingerprint.made_from)})"
            for other_folder, other in others
            if other.path == fingerprint.path
        ]
    found = _read(folder / FINGERPRINT)
    if changed := _changes(found.made_from, fingerprint.made_from):
        raise DataError(
            f"{folder} holds another cache ({changed}); delete it, or set data.cache to another "
            "folder"
        )
    if not (changed := _changes(found.versions, fingerprint.versions)):
        return []
    if not (folder / INDEX).is_file():
        raise DataError(
            f"the cache in {folder} was begun with other libraries ({changed}), and the two halves "
            "could differ; delete it, or finish it with those"
        )
    return [
        f"the cache in {folder} was made with other libraries ({changed}); it is used as it is: "
        "delete it to encode again"
    ]


def _read(path: Path) -> Fingerprint:
    try:
        return Fingerprint(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"cannot read {path} ({error}); delete {path.parent}") from error


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    def short(values: Mapping[str, Any], name: str) -> str:
        text = str(values.get(name, UNNAMED.get(name, "not in use")))
        return text if len(text) <= 20 else f"{text[:12]}…"

    return "; ".join(
        f"{name} was {short(old, name)} and is {short(new, name)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    )

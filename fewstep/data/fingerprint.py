"""What a cache was made from: its folder's name, and the words that say what has changed since."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fewstep.data.errors import DataError
from fewstep.data.latent_cache import FINGERPRINT, INDEX
from fewstep.files import write_file


@dataclass(frozen=True)
class Fingerprint:
    """Everything that decides what a cache holds, by name, and the libraries that made it."""

    made_from: Mapping[str, Any]
    versions: Mapping[str, str]
    path: str = ""
    """Where the data lay, however it was spelt: it decides nothing."""

    @property
    def key(self) -> str:
        """The name of the cache's folder: another for every setting, the same for every version."""
        text = json.dumps(dict(self.made_from), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def claim_cache(root: Path, fingerprint: Fingerprint) -> list[str]:
    """Make the cache's folder below `root`, or check that the one there is it.

    Returns what a user should know: which setting of an earlier cache of the same data has changed,
    or which library has.

    Raises:
        DataError: if the folder holds another cache, or half of one by other libraries.
    """
    folder = root / fingerprint.key
    path = folder / FINGERPRINT
    if not path.is_file():
        notes = _neighbours(root, fingerprint)
        write_file(path, json.dumps(asdict(fingerprint), indent=2, sort_keys=True) + "\n")
        return notes
    there = _read(path)
    if changed := _changes(there.made_from, fingerprint.made_from):
        raise DataError(
            f"{folder} holds another cache ({changed}); delete it, or set data.cache to another "
            "folder"
        )
    if not (changed := _changes(there.versions, fingerprint.versions)):
        return []
    if not (folder / INDEX).is_file():
        raise DataError(
            f"the cache in {folder} was begun with other libraries ({changed}), and the two halves "
            "could differ; delete it, or finish it with those"
        )
    return [
        f"the cache in {folder} was made with other libraries ({changed}); it is used as it is: "
        "delete it to encode anew"
    ]


def _neighbours(root: Path, fingerprint: Fingerprint) -> list[str]:
    """Say how the caches of the same data that lie beside differ."""
    notes = []
    for path in sorted(root.glob(f"*/{FINGERPRINT}")):
        there = _read(path)
        if there.path == fingerprint.path:
            changed = _changes(there.made_from, fingerprint.made_from)
            notes.append(f"encoding anew: the cache in {path.parent} is another ({changed})")
    return notes


def _read(path: Path) -> Fingerprint:
    try:
        return Fingerprint(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"cannot read {path} ({error}); delete {path.parent}") from error


def _changes(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{name} was {_short(there.get(name))} and is {_short(here.get(name))}"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 20 else f"{text[:12]}…"

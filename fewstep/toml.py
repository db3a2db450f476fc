"""TOML: the tables of a file, with changes from the command line, and back to text."""

import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewstep.errors import DataError, SettingError
from fewstep.text import decoded

BACKSLASHES = (": in double quotes TOML reads a backslash as the beginning of a special character; "
               "write a path in single quotes, or with / in place of \\")  # fmt: skip


def read_tables(path: Path | str) -> dict[str, Any]:
    """Return the tables of a file.

    Raises:
        SettingError: if it cannot be read, or is not TOML.
    """
    try:
        text = decoded(Path(path).read_bytes(), str(path))
        return parsed(text, str(path))
    except OSError as error:
        raise SettingError(f"cannot read {path}: {error.strerror}") from error
    except DataError as error:
        raise SettingError(str(error)) from error
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"{path} is not TOML: {error}{_backslash_hint(text, error)}") from error


def parsed(text: str, name: str) -> dict[str, Any]:
    """Return TOML's tables; a TOMLDecodeError is of its grammar alone.

    Raises:
        SettingError: if it is nested too deep, or holds a number of thousands of digits.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        why = "nested too deep" if isinstance(error, RecursionError) else "a number of that length"
        raise SettingError(f"{name} cannot be read: {why}; is it the right file?") from error


def with_paths(tables: dict[str, Any], paths: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the tables with `~` replaced by the user's folder in `paths`: table and key each.

    Raises:
        SettingError: if a path holds a control character, as a backslash in double quotes makes.
    """
    for table, key in paths:
        values = tables.get(table)
        if not isinstance(values, dict) or not isinstance(path := values.get(key), str):
            continue
        if re.search(r"[\x00-\x1f\x7f]", path):
            what = "with control characters in it"
            raise SettingError(f"{table}.{key} is {path!r}, {what}{BACKSLASHES}")
        if path.startswith("~"):
            values[key] = os.path.expanduser(path)
    return tables


def _backslash_hint(text: str, error: tomllib.TOMLDecodeError) -> str:
    """Return what to write in the line of an error where it has backslashes in double quotes."""
    place = re.search(r"at line (\d+)", str(error))
    line = text.splitlines()[int(place[1]) - 1] if place else ""
    return BACKSLASHES if re.search(r'"[^"]*\\', line) else ""


def apply_overrides(tables: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return the tables with "table.key=value" applied; a value is TOML, or else a bare string.

    >>> apply_overrides({"train": {"steps": 5}}, ["train.steps=9", "method.name=cd"])
    {'train': {'steps': 9}, 'method': {'name': 'cd'}}
    """
    tables = {name: dict(t) if isinstance(t, Mapping) else t for name, t in tables.items()}
    for override in overrides:
        path, equals, text = override.partition("=")
        table, _, key = path.strip().rpartition(".")
        if not (equals and key) or "." in table or _is_half(override):
            raise SettingError(f"cannot read --set {override!r}; write table.key=value")
        target = tables.setdefault(table, {}) if table else tables
        if not isinstance(target, dict):
            raise SettingError(f"{table} is {target!r}; it has to be a table")
        target[key] = _toml_value(text.strip())
    return tables


def _is_half(text: str) -> bool:
    """Return whether text holds half a character, as bytes that are not UTF-8 make."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def written(tables: Mapping[str, Mapping[str, Any] | None]) -> str:
    """Return tables as TOML; what is None is left out."""
    lines = []
    for table, values in tables.items():
        if values is None:
            continue
        lines += [f"[{table}]"]
        lines += [f"{key} = {_as_toml(v)}" for key, v in values.items() if v is not None]
        lines += [""]
    return "\n".join(lines)


def _as_toml(value: Any) -> str:
    """Write a value; TOML reads what JSON writes, but for one character."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")


def _toml_value(text: str) -> Any:
    try:
        tables = parsed(f"value = {text}", f"--set …={text[:20]}")
    except tomllib.TOMLDecodeError:
        return text
    return tables["value"] if len(tables) == 1 else text  # no second setting in a second line

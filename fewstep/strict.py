"""The one strict reader: dataclasses from the tables of a file. It imports no heavy library."""

import dataclasses
import difflib
import json
import math
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from fewstep.errors import SettingError, UserError

Table = TypeVar("Table")

RENAMED = {"data.pictures": "images"}
"""Settings that had another name in the first release, which is read as well."""


def from_tables(
    kind: type[Table],
    values: object,
    where: str = "",
    *,
    what: str = "setting",
    error: type[UserError] = SettingError,
) -> Table:
    """Build a dataclass from nested mappings; unknown keys and wrong types are errors.

    Types are those of JSON: an int serves for a float, a list for a tuple, and nothing else
    is converted. `where` comes before each name, and `what` is what messages call an entry.

    Raises:
        error: naming the entry, with the nearest known name where there is one.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        values = renamed(values, where)
        check_keys(kind, values, where, what, error)
        text = json.dumps(values, default=str)  # the types of JSON, in which a table is no class
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as refused:
        first = refused.errors()[0]
        cause = first.get("ctx", {}).get("error")  # of a check of the dataclass itself
        if isinstance(cause, UserError):
            raise cause from None
        raise error(explained(first, where, what)) from None
    except RecursionError:
        raise error(too_deep(where)) from None


def renamed(values: object, where: str) -> object:
    """Return the values with the names of the first release replaced, in inner tables too."""
    if not isinstance(values, Mapping):
        return values
    return {
        RENAMED.get(f"{where}{key}", key): renamed(value, f"{where}{key}.")
        for key, value in values.items()
    }


def check_keys(kind: Any, value: object, where: str, what: str, error: type[UserError]) -> None:
    """Refuse keys that are no field of a dataclass, in inner tables and lists too."""
    options = typing.get_args(kind)
    if isinstance(value, float) and not math.isfinite(value):
        raise error(f"{where.rstrip('.')} is {value}; it has to be a finite number")
    if isinstance(value, Mapping) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        known = [entry.name for entry in dataclasses.fields(kind)]
        for key, inner in value.items():
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.7)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
                file, colon, outer = where.rpartition(": ")
                raise error(f"{file}{colon}unknown {what} {outer}{key}; {hint}")
            check_keys(hints[key], inner, f"{where}{key}.", what, error)
    elif isinstance(value, Mapping) and typing.get_origin(kind) is Mapping:
        for key, inner in value.items():
            check_keys(options[-1], inner, f"{where}{key}.", what, error)
    elif isinstance(value, list | tuple) and typing.get_origin(kind) is tuple:
        for i, inner in enumerate(value):
            check_keys(options[0], inner, f"{where.rstrip('.')}[{i}].", what, error)
    else:  # of a union the one that is a table
        for option in options:
            check_keys(option, value, where, what, error)


TYPES = {"int": "an integer", "float": "a number", "string": "text", "bool": "true or false"}
BOUNDS = {"ge": "{} or more", "gt": "above {}", "le": "{} or less", "lt": "below {}"}


def too_deep(where: str) -> str:
    """Return the refusal of tables or lists that are nested deeper than can be read."""
    return f"{where or 'the file'} is nested too deep; is it the right file?"


def explained(refusal: Mapping[str, Any], where: str, what: str) -> str:
    """Return one of pydantic's errors in our words: the entry, its value and what it has to be."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in refusal["loc"])
    file, colon, outer = where.rpartition(": ")
    entry, value = f"{outer}{path.removeprefix('.')}".rstrip("."), refusal["input"]
    name = f"{file}{colon}{entry}"
    match refusal["type"].partition("_")[0]:
        case "json":  # of which the input is the whole text
            return too_deep(where)
        case "missing":
            return f"{file}{colon}the {what} {entry} is missing"
        case "dataclass" | "dict" | "mapping":
            return f"{name} is {value!r}; it has to be a table, [{entry}]"
        case "literal":
            return f"{name} is {value!r}; it has to be {refusal['ctx']['expected']}"
        case "value":  # of a dataclass's own check: a whole sentence if it is the outermost
            return f"{name} is {refusal['ctx']['error']}" if path else str(refusal["ctx"]["error"])
        case "tuple" | "list":
            return f"{name} is {value!r}; it has to be a list"
        case "greater" | "less":
            ((bound, number),) = refusal["ctx"].items()
            return f"{name} is {value!r}; it has to be {BOUNDS[bound].format(f'{number:g}')}"
        case kind:
            return f"{name} is {value!r}; it has to be {TYPES.get(kind, kind)}"

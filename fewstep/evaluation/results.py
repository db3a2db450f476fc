"""What was measured, as a file: results.json, written whole or not at all and read strictly."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from fewstep.errors import UserError
from fewstep.evaluation.intervals import Interval
from fewstep.files import write_file
from fewstep.strict import from_tables

SEVERAL = ", "
"""What stands between the sources of a pooled row."""


@dataclass(frozen=True)
class Row:
    """An evaluated model in so many steps, and its measured metrics by name.

    `calls` is its NFE, the network evaluations an image; `seed` is the training seed, None for the
    teacher and for a row that is pooled over training seeds, whose `source` names them all.
    """

    source: str
    method: str
    steps: int
    calls: int
    seed: int | None
    metrics: Mapping[str, Interval]


@dataclass(frozen=True)
class Results:
    """Rows that may stand in one table, because they were measured by one protocol."""

    protocol: str
    command: str
    commit: str
    machine: str
    rows: tuple[Row, ...]
    unavailable: Mapping[str, str] = field(default_factory=dict)
    """Metrics of the protocol that could not be measured, and why."""
    cost: str = ""
    """What measuring took itself, in words; older files have none."""

    def to_json(self) -> str:
        """Return the content of results.json."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str | Path = "results.json") -> Self:
        """Read results.

        Raises:
            UserError: if it is not JSON, or an entry is missing, unknown or of the wrong type.
        """
        try:
            entries = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{source} is not JSON ({error}); evaluate again") from error
        return from_tables(cls, entries, f"{source}: ", what="entry", error=UserError)


def save(results: Results, path: Path) -> None:
    """Write results.json whole or not at all."""
    write_file(path, results.to_json())


def load(path: Path) -> Results:
    """Read results.json; see `Results.from_json`."""
    return Results.from_json(path.read_text(encoding="utf-8"), path)


def joined(parts: Sequence[Results]) -> Results:
    """Put results of one protocol into one table; a row that several hold appears once.

    Raises:
        UserError: if there are none, or their protocols differ.
    """
    protocols = list(dict.fromkeys(part.protocol for part in parts))
    if len(protocols) != 1:
        raise UserError(
            "results of different protocols cannot share a table: "
            f"{'; '.join(protocols) or 'there are none'}. Evaluate all with one protocol"
        )
    rows: list[Row] = []
    for row in (row for part in parts for row in part.rows):
        if row not in rows:
            rows.append(row)
    texts = {
        name: "; ".join(filter(None, dict.fromkeys(getattr(part, name) for part in parts)))
        for name in ("command", "commit", "machine", "cost")
    }
    unavailable = {name: why for part in parts for name, why in part.unavailable.items()}
    return Results(protocols[0], **texts, rows=tuple(rows), unavailable=unavailable)


def overview(rows: Sequence[Row]) -> list[Row]:
    """Return the rows without those of single training seeds that a pooled row names as sources."""
    pooled = {
        (source, row.method, row.steps)
        for row in rows
        if row.seed is None
        for source in row.source.split(SEVERAL)
    }
    return [
        row for row in rows if row.seed is None or (row.source, row.method, row.steps) not in pooled
    ]


def metric_names(rows: Sequence[Row]) -> list[str]:
    """Return the names of all metrics that a row has, in the order of their first mention."""
    return list(dict.fromkeys(name for row in rows for name in row.metrics))

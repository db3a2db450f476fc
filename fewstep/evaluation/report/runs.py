"""What a training run leaves in its folder, as the report shows it: settings and loss."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fewstep.config import load_config
from fewstep.errors import UserError
from fewstep.evaluation.labels import title_of

QUARTERS = 4
IMAGE_NUMBERS = ("diversity", "contrast")
"""What a run logs of its student's images, at some of its steps."""
Curve = tuple[tuple[int, float], ...]
"""Pairs of step and number."""


@dataclass(frozen=True)
class TrainingRun:
    """A run's settings (the text of config.toml), and its loss by step and by noise level.

    `by_noise` has a curve for each quarter of the noise levels, the cleanest first; `images` one
    for each of IMAGE_NUMBERS, empty where images were not looked at.
    """

    name: str
    method: str
    settings: str
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    by_noise: tuple[Curve, ...]
    images: Mapping[str, Curve]

    @property
    def title(self) -> str:
        """The title of the run's method."""
        return title_of(self.method)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a run's folder; steps that were trained again after an interruption count once.

        Raises:
            UserError: if config.toml is missing, or it or a line of metrics.jsonl is damaged.
        """
        config = folder / "config.toml"
        if not config.is_file():
            raise UserError(f"{folder} is not a run: it has no config.toml")
        method = load_config(config).method.get("name", "")
        settings, log = config.read_text(encoding="utf-8"), read_log(folder / "metrics.jsonl")
        losses = tuple(entry.loss for entry in log.values())
        curves = tuple(
            curve((s, entry.by_noise[q]) for s, entry in log.items()) for q in range(QUARTERS)
        )
        images = {
            name: curve((s, entry.images.get(name)) for s, entry in log.items())
            for name in IMAGE_NUMBERS
        }
        return cls(folder.name, method, settings, tuple(log), losses, curves, images)


@dataclass(frozen=True)
class LogEntry:
    """What a report shows of a line of metrics.jsonl."""

    loss: float
    by_noise: list[float | None]
    images: Mapping[str, float]


def curve(points: Iterable[tuple[int, float | None]]) -> Curve:
    """Return the points that have a number."""
    return tuple((step, number) for step, number in points if number is not None)


def read_log(path: Path) -> dict[int, LogEntry]:
    """Return the lines by step, without a last line still being written.

    Raises:
        UserError: if another line is damaged.
    """
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else [""]
    log: dict[int, LogEntry] = {}
    for number, line in enumerate(lines[:-1], 1):
        try:
            entry = json.loads(line)
            parts = [None if p is None else float(p) for p in entry.get("loss_by_noise", [])]
            parts += [None] * (QUARTERS - len(parts))
            images = {name: float(entry[name]) for name in IMAGE_NUMBERS if name in entry}
            log[int(entry["step"])] = LogEntry(float(entry["loss"]), parts, images)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number} is damaged: {error!r}") from error
    return dict(sorted(log.items()))

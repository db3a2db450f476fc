"""What a training run leaves in its folder, as the report shows it: settings and loss."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fewstep.config import load_config
from fewstep.errors import UserError
from fewstep.evaluation.labels import title_of

QUARTERS = 4
Curve = tuple[tuple[int, float], ...]
"""Pairs of step and loss."""


@dataclass(frozen=True)
class TrainingRun:
    """A run's settings (the text of config.toml), and its loss by step and by noise level.

    `by_noise` has a curve for each quarter of the noise levels, the cleanest first.
    """

    name: str
    method: str
    settings: str
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    by_noise: tuple[Curve, ...]

    @property
    def title(self) -> str:
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
        losses = tuple(loss for loss, _ in log.values())
        curves = tuple(
            tuple((step, loss) for step, (_, part) in log.items() if (loss := part[q]) is not None)
            for q in range(QUARTERS)
        )
        return cls(folder.name, method, settings, tuple(log), losses, curves)


def read_log(path: Path) -> dict[int, tuple[float, list[float | None]]]:
    """Return loss, and loss by noise level, by step, without a last line still being written.

    Raises:
        UserError: if another line is damaged.
    """
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else [""]
    log: dict[int, tuple[float, list[float | None]]] = {}
    for number, line in enumerate(lines[:-1], 1):
        try:
            entry = json.loads(line)
            parts = [None if p is None else float(p) for p in entry.get("loss_by_noise", [])]
            parts += [None] * (QUARTERS - len(parts))
            log[int(entry["step"])] = float(entry["loss"]), parts
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number} is damaged: {error!r}") from error
    return dict(sorted(log.items()))

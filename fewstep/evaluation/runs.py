"""What a training run leaves in its folder, as the report shows it: settings and loss."""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fewstep.errors import UserError
from fewstep.evaluation.labels import method_title


@dataclass(frozen=True)
class TrainingRun:
    """A run's settings (the text of config.toml) and its loss by step."""

    name: str
    method: str
    settings: str
    steps: tuple[int, ...]
    losses: tuple[float, ...]

    @property
    def title(self) -> str:
        return method_title(self.method)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a run's folder; steps that were trained again after an interruption count once.

        Raises:
            UserError: if config.toml is missing, or it or a line of metrics.jsonl is damaged.
        """
        config = folder / "config.toml"
        if not config.is_file():
            raise UserError(f"{folder} is not a run: it has no config.toml")
        settings = config.read_text(encoding="utf-8")
        try:
            method = tomllib.loads(settings).get("method", {}).get("name", "")
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"{config} is damaged: {error}") from error
        by_step = read_losses(folder / "metrics.jsonl")
        steps = tuple(sorted(by_step))
        return cls(folder.name, method, settings, steps, tuple(by_step[step] for step in steps))


def read_losses(path: Path) -> dict[int, float]:
    """Read loss by step; a last line that is being written is left for the next reader.

    Raises:
        UserError: if another line is damaged.
    """
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else [""]
    found: dict[int, float] = {}
    for number, line in enumerate(lines[:-1], 1):
        try:
            entry = json.loads(line)
            found[int(entry["step"])] = float(entry["loss"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number} is damaged: {error!r}") from error
    return found

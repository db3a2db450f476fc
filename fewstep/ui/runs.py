"""Runs on the page: trainings as processes of their own, and what their folders say."""

import json
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from fewstep.config import Config, load_config
from fewstep.errors import UserError
from fewstep.files import write_file

RECIPE, OUTPUT = "recipe.toml", "output.txt"
"""The config that the page writes into a run's folder, and what the training prints."""

RECENT = 20
"""The last steps whose mean speed says how much time is left."""


@dataclass(frozen=True)
class RunState:
    """How far a run is, from its folder; figures are of the last step, 0 before the first."""

    name: str
    status: str
    message: str = ""
    step: int = 0
    steps: int = 0
    loss: float = 0.0
    images_per_second: float = 0.0
    time_left: str = ""
    preview: Image.Image | None = None
    preview_step: int = 0


@dataclass
class Trainings:
    """The trainings that were started from the page, one process a run below `root`/runs."""

    root: Path
    processes: dict[Path, subprocess.Popen] = field(default_factory=dict)
    stopped: set[Path] = field(default_factory=set)

    def folder(self, name: str) -> Path:
        """Return a run's folder by its name.

        Raises:
            UserError: if it is not a plain name.
        """
        if not re.fullmatch(r"[A-Za-z0-9_][\w.-]{0,63}", name):
            raise UserError(
                f"the run's name is {name!r}; it has to be of letters, digits, '-', '_' and '.'"
            )
        return self.root / "runs" / name

    def is_running(self, run: Path) -> bool:
        """Return whether this page trains the run."""
        process = self.processes.get(run)
        return process is not None and process.poll() is None

    def start(self, name: str, text: str) -> None:
        """Start a run, or continue it, with a recipe that has been read.

        Raises:
            UserError: if its name cannot be used, or it is being trained already.
        """
        run = self.folder(name)
        if self.is_running(run):
            raise UserError(f"{name} is being trained; stop it first, or choose another name")
        write_file(run / RECIPE, text)
        self.stopped.discard(run)
        command = [sys.executable, "-m", "fewstep", "distill", run / RECIPE, "--run", run]
        with open(run / OUTPUT, "wb") as output:
            self.processes[run] = subprocess.Popen(
                list(map(str, command)), cwd=self.root, stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def stop(self, name: str) -> None:
        """Ask a run to save and stop; on Windows it ends at once, with its last checkpoint.

        Raises:
            UserError: if it is not being trained by this page.
        """
        run = self.folder(name)
        if not self.is_running(run):
            raise UserError(f"{name} is not being trained by this page")
        self.stopped.add(run)
        self.processes[run].send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Stop all runs, and wait until they have saved."""
        for run in filter(self.is_running, list(self.processes)):
            self.stop(run.name)
        for process in self.processes.values():
            process.wait()

    def state(self, name: str) -> RunState:
        """Return how far a run is.

        Raises:
            UserError: if there is none of this name.
        """
        run = self.folder(name)
        if not (run / RECIPE).is_file() and not (run / "config.toml").is_file():
            raise UserError(f"there is no run {name} yet; choose Start")
        status, message = self._status(run)
        entries = read_entries(run / "metrics.jsonl")
        preview = max((run / "previews").glob("[0-9]*.png"), default=None)
        state = RunState(name, status, message)
        if entries:
            config = load_config(run / "config.toml")
            state = with_figures(state, config, entries)
        if preview:
            with Image.open(preview) as image:
                loaded = image.convert("RGB")
            state = RunState(**vars(state) | {"preview": loaded, "preview_step": int(preview.stem)})
        return state

    def _status(self, run: Path) -> tuple[str, str]:
        """Return what a run does, in words, and the error that ended it."""
        if self.is_running(run):
            begun = (run / "metrics.jsonl").is_file()
            return ("training" if begun else "loading the model and encoding the data"), ""
        if (run / "artefact").is_dir():
            return f"finished; next: fewstep ui {run.relative_to(self.root)}", ""
        process = self.processes.get(run)
        if process and process.returncode not in self._codes_of_a_stop(run):
            return "failed", last_words(run / OUTPUT)
        return "stopped; Start continues it", ""

    def _codes_of_a_stop(self, run: Path) -> set[int]:
        """Return the exit codes of a run that nothing went wrong in; Windows has its own."""
        ended_by_windows = {1} if run in self.stopped and sys.platform == "win32" else set()
        return {0, 128 + signal.SIGTERM, -signal.SIGTERM} | ended_by_windows


def read_entries(log: Path) -> list[dict]:
    """Return the last lines of metrics.jsonl, without one that is still being written."""
    lines = log.read_text(encoding="utf-8").split("\n")[:-1] if log.is_file() else []
    return [json.loads(line) for line in lines[-RECENT:]]


def with_figures(state: RunState, config: Config, entries: list[dict]) -> RunState:
    """Return the state with the figures of the last steps."""
    train, last = config.train, entries[-1]
    batch = train.batch_size * train.accumulate * (train.processes or 1)
    speed = len(entries) / sum(1 / entry["images_per_second"] for entry in entries)
    figures = {
        "step": last["step"],
        "steps": train.steps,
        "loss": last["loss"],
        "images_per_second": speed,
        "time_left": duration((train.steps - last["step"]) * batch / speed),
    }
    return RunState(**vars(state) | figures)


def duration(seconds: float) -> str:
    """Return a time in the unit that one says it in.

    >>> duration(40), duration(200), duration(9000)
    ('40 s', '3 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def last_words(output: Path) -> str:
    """Return the error that a program printed last, without its name before it."""
    text = output.read_text(encoding="utf-8", errors="replace").strip()
    start = text.rfind("fewstep: ")
    return " ".join(text[start + 9 :].split()) if start >= 0 else text[-300:]

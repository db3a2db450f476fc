"""What the commands print: that they load, progress bars, and what to type next.

It comes before the heavy libraries, and imports none.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

Result = TypeVar("Result")


def is_main_process() -> bool:
    """Return whether this process writes and prints; known before it has joined the others."""
    return os.environ.get("RANK", "0") == "0"


def say_loading() -> None:
    """Say on stderr that libraries are loaded, which takes seconds, unless torch is there."""
    if is_main_process() and "torch" not in sys.modules:
        print("fewstep: loading the libraries …", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class TaskProgress:
    """How far a task is, `done` of `total`, with a note to show beside its bar."""

    task: str
    done: int
    total: int
    note: str = ""


Steps = Generator[TaskProgress, None, Result]
"""Work that yields after each step how far it is, and returns its result."""


def finish(
    steps: Steps[Result], show: Callable[[TaskProgress], None] = lambda step: None
) -> Result:
    """Run all steps, showing each, and return the result."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value
        show(step)


def show_progress(steps: Steps[Result]) -> Result:
    """Run all steps with a bar for each task, which the main process alone shows."""
    bars: dict[str, TaskID] = {}

    def show(step: TaskProgress) -> None:
        if step.task not in bars:
            bars[step.task] = bar.add_task(step.task, total=step.total, note="")
        bar.update(bars[step.task], completed=step.done, note=step.note)

    with progress_bar() as bar:
        bar.disable = not is_main_process()
        return finish(steps, show)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "step"), counted(4, "step")
    ('1 step', '4 steps')
    """
    return f"{number} {noun}" + ("" if number == 1 else "s")


def print_once(text: str) -> None:
    """Print a text, from the main process alone."""
    if is_main_process():
        print(text)


def next_command(*arguments: object) -> str:
    """Return "next: " and a command of this program that works where it is typed as printed."""
    return f"next: {program()} {shlex.join(map(str, arguments))}"


def program() -> str:
    """Return how this program is called: by its name where the shell finds it, or by its path."""
    called = Path(sys.argv[0])
    if (called.parent.name, called.name) == ("fewstep", "__main__.py"):
        return f"{_typed(Path(sys.executable))} -m fewstep"
    return _typed(called) if called.stem == "fewstep" else "fewstep"


def _typed(file: Path) -> str:
    """Return the name or the path that starts an executable file."""
    found = shutil.which(file.name)
    if str(file) == file.name or (found and Path(found).absolute() == file.absolute()):
        return file.name
    near = file.absolute().is_relative_to(Path.cwd())
    return shlex.quote(str(file.absolute().relative_to(Path.cwd()) if near else file.absolute()))


class Cut(TextColumn):
    """Words that are cut where a line is too narrow for all: counts and times stay whole."""

    def __init__(self, text: str) -> None:
        super().__init__(text, table_column=Column())

    def render(self, task: Task) -> Text:
        """Return the words of a task, marked to be cut."""
        words = super().render(task)
        words.no_wrap, words.overflow = True, "ellipsis"
        return words


def progress_bar() -> Progress:
    """Return a bar that writes to stderr and leaves a line a task when it is done.

    The bar has the room that counts, times and note leave. In a notebook it lives where ipywidgets
    is installed; else its last state is printed.
    """
    console = Console(stderr=True)
    if console.is_jupyter and not find_spec("ipywidgets"):
        console = Console(stderr=True, force_jupyter=False, force_terminal=False)
    whole = Column(no_wrap=True)
    return Progress(
        Cut("{task.description}"),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        MofNCompleteColumn(table_column=whole),
        TimeElapsedColumn(table_column=whole),
        TextColumn("left"),
        TimeRemainingColumn(table_column=whole),
        Cut("{task.fields[note]}"),
        console=console,
        expand=True,
    )

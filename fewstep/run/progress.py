"""What the terminal shows of a run: honest bars with loss, speed and time left."""

from collections.abc import Callable
from importlib.util import find_spec
from types import TracebackType
from typing import Self

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

from fewstep.run.distill import Listener
from fewstep.run.workshop import Workshop
from fewstep.training.processes import is_first_process
from fewstep.training.trainer import StepResult


class Cut(TextColumn):
    """Words that are cut where a line is too narrow for all: counts and times stay whole."""

    def __init__(self, text: str) -> None:
        super().__init__(text, table_column=Column())

    def render(self, task: Task) -> Text:
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


class TerminalListener(Listener):
    """Bars for encoding and training; use it as a context."""

    def __init__(self, name: str) -> None:
        self.name, self.bar = name, progress_bar()
        self.task: TaskID | None = None
        self.batch = 0

    def __enter__(self) -> Self:
        if is_first_process():
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def say(self, text: str) -> None:
        """Print what came of it, once however many processes there are."""
        if is_first_process():
            print(text)

    def on_encoded(self, total: int) -> Callable[[int], None]:
        return self._counting("encoding pictures", total)

    def on_checked(self, total: int) -> Callable[[int], None]:
        return self._counting("looking at pictures", total)

    def _counting(self, what: str, total: int) -> Callable[[int], None]:
        task = self.bar.add_task(what, total=total, note="")
        return lambda count: self.bar.advance(task, count)

    def on_start(self, shop: Workshop, first_step: int) -> None:
        train = shop.config.train
        self.batch = shop.global_batch
        self.task = self.bar.add_task(f"training {self.name}", total=train.steps, note="")
        self.bar.update(self.task, completed=first_step)

    def on_step(self, result: StepResult) -> None:
        assert self.task is not None  # on_start comes first
        speed = self.bar.tasks[self.task].speed
        images = f"  {speed * self.batch:.0f} img/s" if speed else ""
        self.bar.update(self.task, completed=result.step, note=f"loss {result.loss:.4f}{images}")

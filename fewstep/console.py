"""Progress bars on the terminal."""

from importlib.util import find_spec

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text


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

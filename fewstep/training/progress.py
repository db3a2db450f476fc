"""What the terminal shows of a run: honest bars with loss, speed and time left."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.progress import TaskID

from fewstep.console import progress_bar
from fewstep.distributed import is_main_process
from fewstep.training.distill import Listener
from fewstep.training.loop import StepResult
from fewstep.training.setup import Workshop


class TerminalListener(Listener):
    """Bars for encoding and training; use it as a context."""

    def __init__(self, name: str) -> None:
        self.name, self.bar = name, progress_bar()
        self.task: TaskID | None = None
        self.batch = 0

    def __enter__(self) -> Self:
        if is_main_process():
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
        if is_main_process():
            print(text)

    def on_encoded(self, total: int) -> Callable[[int], None]:
        return self._counting("encoding images", total)

    def on_checked(self, total: int) -> Callable[[int], None]:
        return self._counting("looking at images", total)

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

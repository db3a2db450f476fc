"""The program `fewstep` in a process of its own, which tells through a pipe what it is doing."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fewstep.__main__ import main
from fewstep.export import export
from fewstep.training import distill
from fewstep.training.checkpoint import Checkpoints
from fewstep.training.previews import Previews

Tell = Callable[[str], None]

STAGES = ("cache", "step", "checkpoint", "preview", "artefact", "export")
"""What a run does, in the order in which it can first happen."""

BETWEEN = "between"
"""Reading settings and models, logging, and all else that is none of the stages."""


def run(arguments: Sequence[str], told: Connection, output: Path) -> None:
    """Run a command line of `fewstep`; send the time and the stage wherever the stage changes."""
    with open(output, "a") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    watch(lambda stage: told.send((time.monotonic(), stage)))
    sys.argv = ["fewstep", *arguments]
    main()


def watch(tell: Tell) -> None:
    """Have this process tell when a stage begins and ends."""
    distill.encode = told_steps(distill.encode, "cache", tell)
    distill.steps_of = told_steps(distill.steps_of, "step", tell)
    distill.write_artefact = told(distill.write_artefact, "artefact", tell)
    export.export_artefact = told(export.export_artefact, "export", tell)
    Checkpoints.save = told(Checkpoints.save, "checkpoint", tell)
    Previews.draw = told(Previews.draw, "preview", tell)


def told(work: Callable[..., Any], stage: str, tell: Tell) -> Callable[..., Any]:
    """Return a function that does the same and tells when."""

    @wraps(work)
    def working(*arguments: Any) -> Any:
        tell(stage)
        try:
            return work(*arguments)
        finally:
            tell(BETWEEN)

    return working


def told_steps(work: Callable[..., Any], stage: str, tell: Tell) -> Callable[..., Iterator[Any]]:
    """Return a generator that does the same and tells of each of its steps."""

    @wraps(work)
    def working(*arguments: Any) -> Iterator[Any]:
        steps = work(*arguments)
        advance = told(lambda: next(steps), stage, tell)
        while True:
            try:
                step = advance()
            except StopIteration as end:
                return end.value
            yield step

    return working

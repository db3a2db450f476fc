"""The program `fewstep`, also as `python -m fewstep`: signals, errors and exit codes."""

import os
import re
import signal
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import typer

from fewstep.cli import app
from fewstep.errors import Interrupted, PromptWarning, UserError, is_out_of_memory
from fewstep.versions import KNOWN_BAD, known_trouble

LESS = "make fewer or smaller images at a time, end other programs, or use a smaller model"
"""What a command needs less memory with; a training run says so by its plan."""


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    sys.argv[1:] = map(with_home, sys.argv[1:])
    run_command(app)


def with_home(argument: str) -> str:
    """Put the user's folder in place of a ~ that a shell leaves alone.

    It does so in quotes and after an equals sign, as in `--run=~/mine`.
    """
    start = argument.find("=") + 1 if argument.startswith("--") else 0
    path = argument[start:]
    return argument[:start] + os.path.expanduser(path) if re.match("~(/|$)", path) else argument


def run_command(command: Callable[[], None]) -> None:
    """Run a command; errors that the user can fix are one sentence, with exit code 2."""
    warnings.showwarning = partial(show_warning, warnings.showwarning)
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, interrupt)
    try:
        command()
    except (UserError, OSError) as error:
        typer.secho(f"fewstep: {explain(error)}", fg="red", err=True)
        sys.exit(2)
    except (ImportError, AttributeError, RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            reason = " ".join(str(error).split())[:120] or "of main memory"
            told = f"there is no memory left ({reason}): {LESS}"
        elif trouble := known_trouble(KNOWN_BAD):
            told = f"{trouble} ({explain(error)})"
        else:
            raise
        typer.secho(f"fewstep: {told}", fg="red", err=True)
        sys.exit(2)
    except Interrupted as stop:
        typer.echo(f"fewstep: {stop}; run the same command again to continue", err=True)
        sys.exit(stop.exit_code)


def show_warning(
    show: Callable[..., None], message: Warning | str, category: type[Warning], *more: Any
) -> None:
    """Print this package's warnings as a sentence, and others as Python does."""
    if issubclass(category, PromptWarning):
        typer.echo(f"fewstep: {message}", err=True)
    else:
        show(message, category, *more)


def interrupt(signum: int, frame: object) -> None:
    """Exit at once: files on disk are complete. A training loop saves first."""
    raise Interrupted(signum, "stopped")


def explain(error: Exception) -> str:
    """Return an error as one sentence; errors of the system name the file."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename or 'while writing'}"
    return " ".join(str(error).split())


if __name__ == "__main__":
    main()

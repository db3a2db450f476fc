"""The program `fewstep`, also as `python -m fewstep`: signals, errors and exit codes."""

import os
import signal
import sys
from collections.abc import Callable

import typer

from fewstep.cli import app
from fewstep.errors import Interrupted, UserError


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    run_command(app)


def run_command(command: Callable[[], None]) -> None:
    """Run a command; errors that the user can fix are one sentence, with exit code 2."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, interrupt)
    try:
        command()
    except (UserError, OSError) as error:
        typer.secho(f"fewstep: {explain(error)}", fg="red", err=True)
        sys.exit(2)
    except Interrupted as stop:
        typer.echo(f"fewstep: {stop}; run the same command again to continue", err=True)
        sys.exit(stop.exit_code)


def interrupt(signum: int, frame: object) -> None:
    """Exit at once: files on disk are complete. A training loop saves first."""
    raise Interrupted(signum, "stopped")


def explain(error: UserError | OSError) -> str:
    """Return an error as one sentence; errors of the system name the file."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename or 'while writing'}"
    return " ".join(str(error).split())


if __name__ == "__main__":
    main()

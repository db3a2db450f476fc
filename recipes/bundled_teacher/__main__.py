"""Train, or continue, the bundled teacher: `python -m recipes.bundled_teacher --run DIR`."""

from pathlib import Path
from typing import Annotated

import typer

from fewstep.__main__ import run_command
from fewstep.cli import Override, RunFolder
from recipes.bundled_teacher.teacher import load_teacher_config, train_teacher


def main(
    config: Annotated[Path | None, typer.Argument(help="Default: teacher.toml here.")] = None,
    *,
    run: RunFolder,
    set_: Override = None,
) -> None:
    """Train, or continue, the bundled teacher. Run the same command again to resume."""
    folder = train_teacher(load_teacher_config(config, set_ or []), run)
    typer.echo(f"wrote {folder}; next: fewstep sample {folder}")


if __name__ == "__main__":
    run_command(lambda: typer.run(main))

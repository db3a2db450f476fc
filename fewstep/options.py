"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fewstep.errors import UserError


def option(text: str, *names: str, **more: Any) -> Any:
    """Return an option with its help."""
    return typer.Option(*names, help=text, **more)


def named(run: Path) -> Path:
    """Refuse the current folder, which an empty string means too, as from an unset variable."""
    if run == Path():
        raise UserError("--run is empty or the current folder; name another one, such as runs/mine")
    return run


ConfigFile = Annotated[
    Path, typer.Argument(help="A TOML file, or one that ships by its name, as sd15-t4.")
]
Override = Annotated[
    list[str] | None,
    option("Change a setting; may be repeated.", "--set", metavar="TABLE.KEY=VALUE"),
]
RunFolder = Annotated[Path, option("The run's folder.", "--run", callback=named)]
Out = Annotated[Path, option("Where to write.", "-o", "--out")]
OutOrDefault = Annotated[Path | None, option("Where to write.", "-o", "--out")]
Force = Annotated[bool, option("Start although the memory does not suffice.", "--force")]
PromptFile = Annotated[Path | None, option("A file, one prompt a line.")]

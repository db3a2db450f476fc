"""`fewstep data …`: what is done with data alone."""

from typing import Annotated

import typer

from fewstep.config import DataSettings
from fewstep.console import say_loading, show_progress
from fewstep.options import option
from fewstep.strict import from_tables

data = typer.Typer(help="Check data before training.", no_args_is_help=True)


@data.command()
def check(
    path: Annotated[str, typer.Argument(help="What data.path would be.")],
    resolution: Annotated[int | None, option("Also list images that are too small.")] = None,
    num_pairs: Annotated[int | None, option("How many to check; default: all.")] = None,
    images: Annotated[
        str | None, option("What data.images would be.", "--images", "--pictures")
    ] = None,
    exclude: Annotated[
        list[str] | None, option("A pattern of data.exclude, of files to leave out.")
    ] = None,
    split: Annotated[str, option("What data.split would be.")] = "train",
    image_column: Annotated[str | None, option("What data.image_column would be.")] = None,
    caption_column: Annotated[str | None, option("What data.caption_column would be.")] = None,
    model: Annotated[str | None, option("What model.base would be, to count tokens.")] = None,
    json: Annotated[bool, option("Print JSON.")] = False,
) -> None:
    """Count images, sizes and captions in PATH, and list each file that cannot be used."""
    given = {name: value for name, value in locals().items() if name not in ("model", "json")}
    settings = from_tables(DataSettings, given | {"exclude": exclude or []}, "data.")
    say_loading()
    from fewstep.data.check import check_data

    found = show_progress(check_data(settings, model))
    typer.echo(found.as_json() if json else "\n".join(found.lines()))
    if not found.is_usable:
        raise typer.Exit(2)

"""What changes on the page, as HTML: all text is escaped, and images are in the page itself."""

from base64 import b64encode
from collections.abc import Callable, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fewstep.student.png_info import SampledImage
from fewstep.ui.compare import Column, spread
from fewstep.ui.runs import RunState

Verdict = Callable[[str, Image.Image], dict[str, bool]]


@cache
def templates() -> Environment:
    """Return the templates of this folder."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals |= {"uri": data_uri, "sampled_uri": sampled_uri, "numbered": numbered}
    return environment


def results_html(columns: Sequence[Column], verdict: Verdict | None) -> str:
    """Return the columns side by side; `verdict` reads an image of the bundled world."""
    template = templates().get_template("results.html.jinja")
    return template.render(columns=columns, verdict=verdict)


def numbered(column: Column) -> list[tuple[int, Image.Image]]:
    """Return the strip's images, each with the number of steps that made it."""
    return [*zip(spread(range(column.total + 1)), column.strip, strict=True)]


def message_html(text: str, kind: str = "error") -> str:
    """Return a sentence for the user, such as an error's."""
    return (
        templates()
        .from_string('<p class="fs-message fs-{{ kind }}" role="alert">{{ text }}</p>')
        .render(text=text, kind=kind)
    )


def run_html(state: RunState, plot: str) -> str:
    """Return how far a run is: its figures, the loss as a plot, and the last preview."""
    return templates().get_template("run.html.jinja").render(state=state, plot=plot)


def sampled_uri(sampled: SampledImage) -> str:
    """Return a data URI of a PNG with the settings that made the image."""
    text = PngInfo()
    text.add_text("parameters", sampled.parameters)
    return data_uri(sampled.image, text)


def data_uri(image: Image.Image, text: PngInfo | None = None) -> str:
    """Return a data URI of an image as PNG."""
    buffer = BytesIO()
    image.save(buffer, "PNG", pnginfo=text)
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"

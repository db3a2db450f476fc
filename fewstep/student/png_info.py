"""An image with what made it, kept in the PNG file as A1111 and other programs read it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from PIL import Image, PngImagePlugin

from fewstep.files import write_file


@dataclass(frozen=True)
class SampledImage:
    """One image; (prompt, seed, number) and the student give it again, in whatever batch.

    `calls` are the network calls that it took.
    """

    image: Image.Image
    prompt: str
    seed: int
    number: int
    calls: int
    negative_prompt: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    """What else was chosen, by the names that A1111 uses where it has one."""

    @property
    def parameters(self) -> str:
        """What made it, in the text form of A1111's `parameters`."""
        return self._told([self.prompt], {"Number": self.number})

    def png(self) -> bytes:
        """Return the bytes of a PNG file with the parameters in it."""
        return png(self.image, self.parameters)

    def save(self, path: str | Path) -> None:
        """Write the PNG file, whole or not at all."""
        write_file(Path(path), self.png())

    def _told(self, prompts: Sequence[str], more: Mapping[str, object]) -> str:
        width, height = self.image.size
        settings = dict(self.settings) | {"Seed": self.seed, "Size": f"{width}x{height}"}
        settings |= {**more, "Calls": self.calls}
        lines = [" ".join(prompt.split()) for prompt in prompts]
        if self.negative_prompt:
            lines.append(f"Negative prompt: {' '.join(self.negative_prompt.split())}")
        return "\n".join([*lines, ", ".join(f"{k}: {_quoted(v)}" for k, v in settings.items())])


def parameters_of(images: Sequence[SampledImage]) -> str:
    """Return what made the images of one call, one prompt a line, in A1111's form."""
    first, last = images[0], images[-1]
    more = {"Number": f"{first.number} to {last.number}"}
    return first._told([image.prompt for image in images], more)


def png(image: Image.Image, parameters: str) -> bytes:
    """Return the bytes of a PNG file with these parameters in it."""
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", parameters)
    buffer = BytesIO()
    image.save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def _quoted(value: object) -> str:
    """Quote a value as A1111 does, where it would be taken for several.

    >>> _quoted("999, 749")
    '"999, 749"'
    """
    text = str(value)
    if not any(mark in text for mark in ",:\n"):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'

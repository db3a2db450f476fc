"""A picture with what made it, kept in the PNG file as A1111 and other programs read it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from PIL import Image, PngImagePlugin

from fewstep.files import write_file


@dataclass(frozen=True)
class Picture:
    """One picture; (prompt, seed, number) and the student give it again, in whatever batch.

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
        width, height = self.image.size
        settings = dict(self.settings) | {"Seed": self.seed, "Size": f"{width}x{height}"}
        settings |= {"Number": self.number, "Calls": self.calls}
        lines = [" ".join(self.prompt.split())]
        if self.negative_prompt:
            lines.append(f"Negative prompt: {' '.join(self.negative_prompt.split())}")
        return "\n".join([*lines, ", ".join(f"{k}: {_quoted(v)}" for k, v in settings.items())])

    def png(self) -> bytes:
        """Return the bytes of a PNG file with the parameters in it."""
        text = PngImagePlugin.PngInfo()
        text.add_text("parameters", self.parameters)
        buffer = BytesIO()
        self.image.save(buffer, "PNG", pnginfo=text)
        return buffer.getvalue()

    def save(self, path: str | Path) -> None:
        """Write the PNG file, whole or not at all."""
        write_file(Path(path), self.png())


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

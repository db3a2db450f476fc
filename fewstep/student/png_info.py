"""An image with the settings that made it, which are kept in the PNG file as A1111 reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fewstep.files import write_file

PNG, XMP = b"\x89PNG\r\n\x1a\n", b"XML:com.adobe.xmp"
TRAINED = "Trained"
"""The setting of images by a run that is not finished: how far it was."""
DECODER = "VAE Decoder"
"""The setting of images by another decoder than the VAE's, by A1111's name."""
TEXTS = (b"tEXt", b"zTXt", b"iTXt")


@dataclass(frozen=True)
class SampledImage:
    """One image, which prompt, seed, settings and the student make again, whatever its batch.

    `nfe` counts its network evaluations; `settings` are by A1111's names where it has them. `seed`
    is None where a caller's own generator has no seed that makes the image again.
    """

    image: Image.Image
    prompt: str
    seed: int | None
    nfe: int
    negative_prompt: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def parameters(self) -> str:
        """The settings in the text form of A1111's `parameters`."""
        return parameters_of([self])

    def save(self, path: str | Path) -> None:
        """Write the PNG file with its parameters, whole or not at all."""
        write_png(Path(path), self.image, self.parameters)


class SampledImages(list[SampledImage]):
    """The images of one call in order, with their settings."""

    @property
    def images(self) -> list[Image.Image]:
        """The images alone, as an output of diffusers has them."""
        return [sampled.image for sampled in self]


def parameters_of(images: Sequence[SampledImage]) -> str:
    """Return what made the images of one call, one prompt a line, as A1111's `parameters`."""
    first, last = images[0], images[-1]
    lines = [" ".join(image.prompt.split()) for image in images]
    if first.negative_prompt:
        lines.append(f"Negative prompt: {' '.join(first.negative_prompt.split())}")
    width, height = first.image.size
    settings = {
        **first.settings,
        **({} if first.seed is None else {"Seed": first.seed}),
        "Size": f"{width}x{height}",
        **({"Seeds": f"{first.seed} to {last.seed}"} if len(images) > 1 else {}),
        "Calls": first.nfe,
    }
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in settings.items()))
    return "\n".join(lines)


def write_png(path: Path, image: Image.Image, parameters: str) -> None:
    """Write a PNG file with `parameters` in it, whole or not at all."""
    text, buffer = PngInfo(), BytesIO()
    text.add_text("parameters", parameters)
    image.save(buffer, "PNG", pnginfo=text)
    write_file(path, buffer.getvalue())


def without_text(content: bytes) -> bytes:
    """Return a PNG file without its texts but XMP; any other content as it is.

    Pillow refuses a whole image for the sake of more than 1 MB of compressed text, which ComfyUI's
    workflows may have. XMP may say which side of an image is up.
    """
    if not content.startswith(PNG):
        return content
    kept, start = [PNG], len(PNG)
    while start < len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        kind, keyword = content[start + 4 : start + 8], content[start + 8 : start + 8 + len(XMP)]
        if kind not in TEXTS or keyword == XMP:
            kept.append(content[start:end])
        start = end
    return b"".join(kept)


def _quoted(value: object) -> str:
    """Quote a value that A1111 would otherwise read as several.

    >>> _quoted("999, 749")
    '"999, 749"'
    """
    text = str(value)
    if not any(mark in text for mark in ",:\n"):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'

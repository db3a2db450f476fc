"""An image's bytes, whatever its kind, become one upright RGB image, or a ImageError."""

import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps

from fewstep.data.errors import ImageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""What is decoded."""

MAX_PIXELS = 100_000_000
"""More is refused from the header: a file of 50 kB can hold an image of 1 GB."""

BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, OverflowError,
          LookupError, TypeError, MemoryError, Image.DecompressionBombError)  # fmt: skip
"""What Pillow raises on damaged files."""


def open_image(content: bytes) -> Image.Image:
    """Return an image of which only the header has been read.

    Raises:
        ImageError: if it is empty, of no known format, or too large to be decoded.
    """
    if not content:
        raise ImageError("the file is empty")
    try:
        image = Image.open(BytesIO(content), formats=FORMATS)
    except BROKEN as error:
        raise ImageError(_reason(error)) from error
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"its header says {image.width} x {image.height} pixels, more than "
            f"{MAX_PIXELS // 10**6} million"
        )
    return image


def decode(content: bytes) -> Image.Image:
    """Return the whole image, upright, in 8-bit RGB, on white where it is transparent.

    Of an animation it is the first frame.

    Raises:
        ImageError: if it cannot be decoded to its end.
    """
    image = open_image(content)
    try:
        image.load()
        return _rgb(ImageOps.exif_transpose(image))
    except BROKEN as error:
        raise ImageError(_reason(error)) from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> np.ndarray:
    """Scale grey values of more bits, which `convert` would cut off at 255."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0)
    whites = [65535] if image.mode.startswith("I;16") else WHITES[image.mode]
    white = next((white for white in whites if values.max(initial=0) <= white), whites[-1])
    return (values.clip(0, white) * (255 / white)).round().astype(np.uint8)


WHITES = {"F": (1, 255, 65535), "I": (255, 65535, 2**31 - 1)}
"""What may be white in numbers that do not say it: the first that none of them exceeds."""


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return "it is no image of a known format" if "cannot identify" in text else text[:200]

"""A picture's bytes, whatever its kind, become one upright RGB picture, or a PictureError."""

import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps

from fewstep.data.errors import PictureError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""What is decoded."""

MAX_PIXELS = 100_000_000
"""More is refused from the header: a file of 50 kB can hold a picture of 1 GB."""

BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, OverflowError,
          LookupError, TypeError, MemoryError, Image.DecompressionBombError)  # fmt: skip
"""What Pillow raises on damaged files."""


def open_picture(content: bytes) -> Image.Image:
    """Return a picture of which only the header has been read.

    Raises:
        PictureError: if it is empty, of no known format, or too large to be decoded.
    """
    if not content:
        raise PictureError("the file is empty")
    try:
        picture = Image.open(BytesIO(content), formats=FORMATS)
    except BROKEN as error:
        raise PictureError(_reason(error)) from error
    if picture.width * picture.height > MAX_PIXELS:
        raise PictureError(
            f"its header says {picture.width} x {picture.height} pixels, more than "
            f"{MAX_PIXELS // 10**6} million"
        )
    return picture


def decode(content: bytes) -> Image.Image:
    """Return the whole picture, upright, in 8-bit RGB, on white where it is transparent.

    Of an animation it is the first frame.

    Raises:
        PictureError: if it cannot be decoded to its end.
    """
    picture = open_picture(content)
    try:
        picture.load()
        return _rgb(ImageOps.exif_transpose(picture))
    except BROKEN as error:
        raise PictureError(_reason(error)) from error


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        return Image.fromarray(_eight_bits(picture)).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def _eight_bits(picture: Image.Image) -> np.ndarray:
    """Scale grey values of more bits, which `convert` would cut off at 255."""
    values = np.nan_to_num(np.asarray(picture).astype(np.float64), posinf=0)
    whites = [65535] if picture.mode.startswith("I;16") else WHITES[picture.mode]
    white = next((white for white in whites if values.max(initial=0) <= white), whites[-1])
    return (values.clip(0, white) * (255 / white)).round().astype(np.uint8)


WHITES = {"F": (1, 255, 65535), "I": (255, 65535, 2**31 - 1)}
"""What may be white in numbers that do not say it: the first that none of them exceeds."""


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return "it is no picture of a known format" if "cannot identify" in text else text[:200]

"""Image files of any kind become upright RGB, and then latents' size: resize, crop, buckets."""

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from fewstep.data.base import ImageError
from fewstep.diffusion.random import generator
from fewstep.student.png_info import without_text

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 100_000_000
"""More is refused from the header: a file of 50 kB can hold an image of 1 GB."""

BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, OverflowError,
          LookupError, TypeError, MemoryError, Image.DecompressionBombError)  # fmt: skip
"""What Pillow raises on damaged files."""


def open_image(content: bytes) -> Image.Image:
    """Return an image of which only the header was read, or raise an ImageError."""
    if not content:
        raise ImageError("the file is empty")
    try:
        image = Image.open(BytesIO(without_text(content)), formats=FORMATS)
    except BROKEN as error:
        raise ImageError(_reason(error)) from error
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"its header gives {image.width} x {image.height} pixels, more than "
            f"{MAX_PIXELS // 10**6} million"
        )
    return image


def decode(content: bytes) -> Image.Image:
    """Return the whole image (of an animation the first frame), upright, in 8-bit RGB.

    Transparent parts become white; what cannot be decoded to its end is an ImageError.
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
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> np.ndarray:
    """Scale grey values of more bits, which `convert` would cut off at 255."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0)
    whites = [65535] if image.mode.startswith("I;16") else WHITES[image.mode]
    white = next((white for white in whites if values.max(initial=0) <= white), whites[-1])
    return (values.clip(0, white) * (255 / white)).round().astype(np.uint8)


WHITES = {"F": (1, 255, 65535), "I": (255, 65535, 2**31 - 1)}
"""What white may be where the format does not say: the first that no value exceeds."""


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return "it is not an image of a known format" if "cannot identify" in text else text[:200]


Size = tuple[int, int]
"""Width and height in pixels."""

MAX_RATIO = 2.0
"""Of a bucket's sides."""


@dataclass(frozen=True)
class Framing:
    """Squares of side `resolution`, or the buckets of at most as many pixels.

    An image is scaled so that it just covers its frame, and the rest is cut off: evenly, or where
    (seed, number of the pair) decides. Squares enlarge an image at most `max_upscale` times,
    buckets never.
    """

    resolution: int
    crop: Literal["centre", "random"] = "centre"
    max_upscale: float = 2.0
    buckets: tuple[Size, ...] = ()
    seed: int = 0

    def frame(self, image: Image.Image, number: int) -> Tensor:
        """Return the image as [3, height, width] in [0, 1]; raise ImageError if too small."""
        width, height = self.size_for(image.size)
        scale = max(width / image.width, height / image.height)
        spare = image.width - width / scale, image.height - height / scale
        at_x, at_y = 0.5, 0.5
        if self.crop == "random":
            at_x, at_y = torch.rand(2, generator=generator(self.seed, "crop", number)).tolist()
        left, top = max(0.0, spare[0] * at_x), max(0.0, spare[1] * at_y)
        box = (left, top, min(left + width / scale, image.width),
               min(top + height / scale, image.height))  # fmt: skip
        return as_tensor(image.resize((width, height), Image.Resampling.LANCZOS, box=box))

    def size_for(self, size: Size) -> Size:
        """Return the frame of an image of this size; raise ImageError if it is too small."""
        too_few = f"{size[0]} x {size[1]} pixels are too few: "
        if not self.buckets:
            if min(size) * self.max_upscale < self.resolution:
                raise ImageError(
                    f"{too_few}data.resolution {self.resolution} would enlarge it more than "
                    f"data.max_upscale = {self.max_upscale:g} times"
                )
            return self.resolution, self.resolution
        fitting = [b for b in self.buckets if b[0] <= size[0] and b[1] <= size[1]]
        if not fitting:
            raise ImageError(f"{too_few}no bucket is as small; lower data.resolution")
        return max(fitting, key=lambda bucket: _score(size, bucket))


def buckets_of(resolution: int, divisor: int) -> tuple[Size, ...]:
    """Return every size of at most resolution^2 pixels whose sides the model can divide.

    The short side is at least half of the resolution, the long one at most twice the short.

    >>> buckets_of(128, 64)
    ((64, 64), (64, 128), (128, 64), (128, 128))
    """
    sides = range(-(-resolution // 2 // divisor) * divisor, 2 * resolution + 1, divisor)
    return tuple(
        (width, height)
        for width in sides
        for height in sides
        if width * height <= resolution**2 and max(width, height) <= MAX_RATIO * min(width, height)
    )


def _score(size: Size, bucket: Size) -> float:
    """Weigh the pixels that a bucket has against the part of the image that it keeps."""
    ratio, other = size[0] / size[1], bucket[0] / bucket[1]
    return bucket[0] * bucket[1] * (min(ratio, other) / max(ratio, other)) ** 2


def as_tensor(image: Image.Image | np.ndarray) -> Tensor:
    """Return 8-bit RGB as [3, height, width] in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float() / 255

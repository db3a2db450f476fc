"""How an image of any size becomes latents of a known one: resize, crop, aspect-ratio buckets."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fewstep.data.errors import ImageError
from fewstep.diffusion.random import generator

Size = tuple[int, int]
"""Width and height in pixels."""

LONGEST = 2.0
"""The largest ratio of a bucket's sides."""


@dataclass(frozen=True)
class Framing:
    """Squares of side `resolution`, or the buckets of at most as many pixels.

    An image is scaled so that it just covers its frame, and the rest is cut off, in the middle or
    at a place that is a function of (seed, number of the pair). Squares enlarge an image at most
    `max_upscale` times, buckets never.
    """

    resolution: int
    crop: Literal["centre", "random"] = "centre"
    max_upscale: float = 2.0
    buckets: tuple[Size, ...] = ()
    seed: int = 0

    def frame(self, image: Image.Image, number: int) -> Tensor:
        """Return the image as [3, height, width] in [0, 1].

        Raises:
            ImageError: if it is too small.
        """
        width, height = self.size_for(image.size)
        scale = max(width / image.width, height / image.height)
        spare = image.width - width / scale, image.height - height / scale
        at_x, at_y = self._place(number)
        left, top = max(0.0, spare[0] * at_x), max(0.0, spare[1] * at_y)
        box = (left, top, min(left + width / scale, image.width),
               min(top + height / scale, image.height))  # fmt: skip
        return as_tensor(image.resize((width, height), Image.Resampling.LANCZOS, box=box))

    def size_for(self, size: Size) -> Size:
        """Return the frame of an image of this size.

        Raises:
            ImageError: if it is too small.
        """
        if not self.buckets:
            if min(size) * self.max_upscale < self.resolution:
                raise ImageError(
                    f"{size[0]} x {size[1]} pixels are too few: data.resolution "
                    f"{self.resolution} would enlarge it more than data.max_upscale = "
                    f"{self.max_upscale:g} times"
                )
            return self.resolution, self.resolution
        fitting = [b for b in self.buckets if b[0] <= size[0] and b[1] <= size[1]]
        if not fitting:
            raise ImageError(
                f"{size[0]} x {size[1]} pixels are too few: no bucket is as small; lower "
                "data.resolution"
            )
        return max(fitting, key=lambda bucket: _worth(size, bucket))

    def _place(self, number: int) -> tuple[float, float]:
        if self.crop == "centre":
            return 0.5, 0.5
        x, y = torch.rand(2, generator=generator(self.seed, "crop", number)).tolist()
        return x, y


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
        if width * height <= resolution**2 and max(width, height) <= LONGEST * min(width, height)
    )


def _worth(size: Size, bucket: Size) -> float:
    """Weigh the pixels that a bucket has against the share of the image that it keeps."""
    mine, its = size[0] / size[1], bucket[0] / bucket[1]
    return bucket[0] * bucket[1] * (min(mine, its) / max(mine, its)) ** 2


def as_tensor(image: Image.Image | np.ndarray) -> Tensor:
    """Return 8-bit RGB as [3, height, width] in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float() / 255

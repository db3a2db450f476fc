"""Segment an image: the connected blobs that differ in hue from the ground."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
VISIBLE = 32.0  # least hue difference of a thing, in grey levels of 255
SPECK = 30  # blobs of fewer pixels are blemishes
MARGIN = 3  # pixels around a blob that belong to its soft edge


@dataclass(frozen=True)
class Segment:
    """How much a thing covers each pixel of [size, size] (0 to 1), and its RGB in 0 to 255."""

    cover: Floats
    colour: Floats

    @property
    def area(self) -> float:
        """How many pixels it covers, counting edges in part."""
        return float(self.cover.sum())

    @property
    def centre(self) -> tuple[float, float]:
        """Return x and y of the centroid, in pixels."""
        rows, columns = self.cover.sum(1), self.cover.sum(0)
        x = columns @ (np.arange(len(columns)) + 0.5)
        y = rows @ (np.arange(len(rows)) + 0.5)
        return float(x / self.area), float(y / self.area)


def ground_colour(image: Floats) -> Floats:
    """Return the median colour of the image's two outermost rows and columns."""
    inner = np.zeros(image.shape[:2], bool)
    inner[2:-2, 2:-2] = True
    return np.median(image[~inner], axis=0)


def hue_difference(image: Floats, ground: Floats) -> Floats:
    """Return each pixel without its component along the ground's colour.

    Shadows, light and corners only scale the ground, so they leave nothing.
    """
    direction = ground / max(float(np.linalg.norm(ground)), 1e-6)
    return image - (image @ direction)[..., None] * direction


def segments(image: Floats, ground: Floats) -> list[Segment]:
    """Return the things of an image of [size, size, 3] in 0 to 255, the largest first."""
    difference = hue_difference(image, ground)
    found = blobs((difference**2).sum(-1) > VISIBLE**2)
    kept = sorted((blob for blob in found if blob.sum() >= SPECK), key=np.sum, reverse=True)
    return [segment(image, difference, blob) for blob in kept]


def segment(image: Floats, difference: Floats, blob: NDArray[np.bool_]) -> Segment:
    """Measure how much each pixel near a blob has of the blob's typical hue."""
    strength = (difference[blob] ** 2).sum(-1)
    core = np.argsort(strength)[len(strength) * 2 // 5 :]  # without the edge and the highlights
    typical = difference[blob][core].mean(0)
    share = difference @ typical / (typical @ typical)
    cover = np.clip(2 * share - 0.5, 0, 1) * dilated(blob, MARGIN)
    return Segment(cover, image[blob][core].mean(0))


def dilated(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """Dilate a mask by a number of pixels in the four directions."""
    for _ in range(pixels):
        wider = mask.copy()
        wider[1:] |= mask[:-1]
        wider[:-1] |= mask[1:]
        wider[:, 1:] |= mask[:, :-1]
        wider[:, :-1] |= mask[:, 1:]
        mask = wider
    return mask


def blobs(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Return the connected components of a mask, with four neighbours a pixel."""
    width = mask.shape[1] + 2
    framed = np.pad(mask, 1)
    todo = set(np.flatnonzero(framed).tolist())
    parts = []
    while todo:
        part = reached = [todo.pop()]
        while reached:
            near = todo.intersection(i + s for i in reached for s in (-1, 1, -width, width))
            todo -= near
            reached = list(near)
            part = part + reached
        flat = np.zeros(framed.size, bool)
        flat[part] = True
        parts.append(flat.reshape(framed.shape)[1:-1, 1:-1])
    return parts

"""Read an image of the bundled world back into its scene."""

import colorsys
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewstep.world.blobs import Floats, Segment, ground_colour, segments
from fewstep.world.scenes import BACKGROUNDS, COLOURS, FRAME, SHAPES, SIZES, Scene, Thing, ramp
from fewstep.world.shapes import CELLS, REACH, field

UNKNOWN = "unknown"
ALIKE = 0.93  # least similarity of a thing to its shape; 1 is the same
PLAIN = 30.0  # most difference of a ground from its background, in grey levels of 255
EDGES = (0.05, 0.11)  # half width of the soft edge of big and of small things, in radii
RINGS = (np.arange(20) + 0.5) * 0.1  # radii at which a thing is sampled
TURNS = np.arange(96) / 96 * 2 * np.pi


def read(image: NDArray[np.uint8]) -> Scene:
    """Read an RGB image of [height, width, 3]; what is not recognised is "unknown" or left out."""
    if image.shape[:2] != (FRAME, FRAME):
        small = Image.fromarray(image).resize((FRAME, FRAME), Image.Resampling.BOX)
        image = np.asarray(small)
    colours = image.astype(np.float32)
    ground = ground_colour(colours)
    things = tuple(read_thing(segment) for segment in segments(colours, ground))
    return Scene(things, read_background(ground))


def read_background(ground: Floats) -> str:
    """Name the background whose colour, made a little brighter or darker, is nearest."""
    colours = np.array(list(BACKGROUNDS.values()))
    tones = np.clip(colours @ ground / (colours**2).sum(1), 0.82, 1.06)
    errors = np.linalg.norm(ground - tones[:, None] * colours, axis=1)
    best = int(errors.argmin())
    return list(BACKGROUNDS)[best] if errors[best] < PLAIN else UNKNOWN


def read_thing(segment: Segment) -> Thing:
    """Name a segment's shape, colour and size, and measure its place."""
    radius = float(np.sqrt(segment.area / np.pi))
    shape, angle, similarity = match(segment, radius)
    size = "small" if radius < np.sqrt(SIZES["small"][1] * SIZES["big"][0]) else "big"
    is_known = similarity >= ALIKE and 0.75 * SIZES["small"][0] < radius < 1.25 * SIZES["big"][1]
    name = shape if is_known else UNKNOWN
    return Thing(name, read_colour(segment.colour), size, *segment.centre, radius, angle)


def read_colour(colour: Floats) -> str:
    """Name the colour of nearest hue, or "unknown" for greys."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(colour / 255).tolist())
    if saturation < 0.25 or value < 0.2:
        return UNKNOWN
    apart = {name: abs((hue - known + 0.5) % 1 - 0.5) for name, known in hues().items()}
    return min(apart, key=apart.__getitem__)


@cache
def hues() -> dict[str, float]:
    """Return the hue of every colour, from 0 to 1."""
    return {name: colorsys.rgb_to_hsv(*(c / 255 for c in rgb))[0] for name, rgb in COLOURS.items()}


def match(segment: Segment, radius: float) -> tuple[str, float, float]:
    """Return the most similar shape, its angle, and their similarity (1 is the same).

    The similarity is 2 <a, b> / (<a, a> + <b, b>) for covers a, b, over all angles at once by FFT.
    """
    spectra, energies = templates()
    seen = polar(segment.cover, *segment.centre, radius)
    products = np.fft.irfft(np.einsum("tra,ra->ta", spectra, np.fft.rfft(seen)), len(TURNS))
    energy = float((RINGS[:, None] * seen**2).sum())
    similarity = 2 * products / (energies[:, None] + energy)
    best, turn = np.unravel_index(similarity.argmax(), similarity.shape)
    return SHAPES[best // len(EDGES)], float(TURNS[turn]), float(similarity[best, turn])


def polar(cover: Floats, x: float, y: float, radius: float) -> Floats:
    """Sample a cover around (x, y) at all rings and turns, between pixels bilinearly."""
    column = np.clip(x - 0.5 + radius * RINGS[:, None] * np.cos(TURNS), 0, FRAME - 1.001)
    row = np.clip(y - 0.5 - radius * RINGS[:, None] * np.sin(TURNS), 0, FRAME - 1.001)
    left, top = column.astype(int), row.astype(int)
    right, below = column - left, row - top
    upper = cover[top, left] * (1 - right) + cover[top, left + 1] * right
    lower = cover[top + 1, left] * (1 - right) + cover[top + 1, left + 1] * right
    return upper * (1 - below) + lower * below


@cache
def templates() -> tuple[NDArray[np.complexfloating], Floats]:
    """Return spectra [shape and edge, ring, frequency] and energies of the renderer's shapes."""
    step = CELLS / (2 * REACH)
    column = ((RINGS[:, None] * np.cos(TURNS) + REACH) * step).astype(int)
    row = ((REACH - RINGS[:, None] * np.sin(TURNS)) * step).astype(int)
    covers = np.stack([ramp(field(s)[0][row, column], e) for s in SHAPES for e in EDGES])
    weighted = RINGS[:, None] * covers
    return np.conj(np.fft.rfft(weighted)), (weighted * covers).sum((1, 2))

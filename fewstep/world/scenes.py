"""Scenes of one to three glossy things on a plain ground: sampled at random, and rendered."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewstep.world import shapes

FRAME = 64  # positions and radii are in pixels of a 64 x 64 image
SHAPES = tuple(shapes.SHAPES)
COLOURS = {
    "red": (228, 42, 58),
    "orange": (250, 128, 28),
    "yellow": (252, 212, 36),
    "green": (46, 174, 86),
    "blue": (38, 112, 232),
    "purple": (150, 66, 208),
}
BACKGROUNDS = {
    "white": (248, 248, 250),
    "cream": (250, 236, 204),
    "pink": (250, 208, 220),
    "mint": (196, 238, 218),
    "lilac": (212, 204, 244),
    "grey": (160, 164, 170),
    "black": (38, 38, 46),
}
SIZES = {"small": (6.5, 8.0), "big": (10.4, 12.8)}  # radius of the circle of the same area
HELD_BACK = frozenset(
    [("triangle", "red"), ("cross", "orange"), ("ring", "yellow"), ("star", "green"),
     ("heart", "blue"), ("moon", "purple")]
)  # fmt: skip
COUNT_SHARES = (0.27, 0.43, 0.3)  # of scenes with one, two and three things
GAP = 3.0  # least distance between two things, and between a thing and the frame


@dataclass(frozen=True)
class Thing:
    """One thing: x to the right and y downwards in pixels, angle in radians, anticlockwise."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True)
class Scene:
    """Things on a background, lit from `light` (radians) with strength `depth` (0 to 1)."""

    things: tuple[Thing, ...]
    background: str
    light: float = 0.0
    depth: float = 0.0


def sample_scene(rng: np.random.Generator, *, held_back: bool = False) -> Scene:
    """Sample a scene; it has things of held-back pairs if and only if `held_back`."""
    pairs = sample_pairs(rng, int(rng.choice([1, 2, 3], p=COUNT_SHARES)), held_back)
    while (things := place(rng, pairs)) is None:
        pass
    background = str(rng.choice(list(BACKGROUNDS)))
    return Scene(things, background, rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.0))


def sample_pairs(rng: np.random.Generator, count: int, held_back: bool) -> list[tuple[str, str]]:
    """Sample the (shape, colour) of each thing, often repeating those of the one before."""
    withheld = sorted(HELD_BACK)
    pairs = [withheld[rng.integers(len(withheld))]] if held_back else []
    while len(pairs) < count:
        shape, colour = str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS)))
        if pairs:
            alike = rng.choice(["no", "both", "shape", "colour"], p=[0.56, 0.2, 0.12, 0.12])
            shape = pairs[-1][0] if alike in ("both", "shape") else shape
            colour = pairs[-1][1] if alike in ("both", "colour") else colour
        if held_back or (shape, colour) not in HELD_BACK:
            pairs.append((shape, colour))
    return [pairs[i] for i in rng.permutation(count)]


def place(rng: np.random.Generator, pairs: list[tuple[str, str]]) -> tuple[Thing, ...] | None:
    """Give every pair a size, an angle and a free place, or return None if there is no room."""
    things: list[Thing] = []
    for shape, colour in pairs:
        size = "small" if rng.random() < 0.5 else "big"
        radius, angle = rng.uniform(*SIZES[size]), rng.uniform(0, 2 * np.pi)
        margin = radius * shapes.extent(shape) + GAP
        for x, y in rng.uniform(margin, FRAME - margin, (30, 2)):
            thing = Thing(shape, colour, size, float(x), float(y), radius, angle)
            if all(gap(thing, other) >= GAP for other in things):
                things.append(thing)
                break
        else:
            return None
    return tuple(things)


def gap(a: Thing, b: Thing) -> float:
    """Return the distance between the circles around two things, in pixels."""
    reach = a.radius * shapes.extent(a.shape) + b.radius * shapes.extent(b.shape)
    return float(np.hypot(a.x - b.x, a.y - b.y)) - reach


def render(scene: Scene, size: int = FRAME) -> NDArray[np.uint8]:
    """Render a scene as an antialiased RGB image of [size, size, 3]."""
    light = np.array([np.cos(scene.light), -np.sin(scene.light)])  # y downwards, as in the image
    axis = ((np.arange(size) + 0.5) * FRAME / size).astype(np.float32)
    image = ground(scene, axis, light)
    for thing in scene.things:
        draw(image, thing, scene, axis, light)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def ground(scene: Scene, axis: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Render the background: brighter towards the light, darker in the corners."""
    u = axis / (FRAME / 2) - 1
    slope = light[0] * u[None, :] + light[1] * u[:, None]
    corners = (u**2)[None, :] + (u**2)[:, None]
    tone = 1 + scene.depth * (0.045 * slope - 0.03 * corners)
    return tone[..., None] * (np.array(BACKGROUNDS[scene.background], np.float32) / 255)


def draw(
    image: np.ndarray, thing: Thing, scene: Scene, axis: np.ndarray, light: np.ndarray
) -> None:
    """Render a thing's soft shadow and then its shaded surface over the image, in place."""
    reach = thing.radius * shapes.extent(thing.shape) + 6
    rows = slice(*np.searchsorted(axis, (thing.y - reach, thing.y + reach)))
    columns = slice(*np.searchsorted(axis, (thing.x - reach, thing.x + reach)))
    patch = image[rows, columns]
    x, y = axis[None, columns] - thing.x, axis[rows, None] - thing.y

    offset = 1.8 * light
    shadow = look_up(thing, x + offset[0], y + offset[1])[0]
    patch *= 1 - 0.34 * scene.depth * ramp(shadow, 2.6)[..., None]

    distance, slope_x, slope_y = look_up(thing, x, y)
    facing = -(slope_x * light[0] + slope_y * light[1])
    across = (x * light[0] + y * light[1]) / thing.radius
    tone = 1 + scene.depth * (0.07 * across + 0.15 * np.minimum(facing, 0.4))
    gloss = 0.4 * scene.depth * np.clip(facing - 0.35, 0, 1)
    surface = tone[..., None] * (np.array(COLOURS[thing.colour], np.float32) / 255)
    surface += gloss[..., None] * (1 - surface)
    cover = ramp(distance, 0.7 * (axis[1] - axis[0]))[..., None]
    patch += cover * (surface - patch)


def look_up(thing: Thing, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return distance (pixels) and slope (x, and y downwards) of a thing at offsets x and y."""
    cos, sin = np.cos(thing.angle) / thing.radius, np.sin(thing.angle) / thing.radius
    step = shapes.CELLS / (2 * shapes.REACH)
    column = ((x * cos - y * sin + shapes.REACH) * step).astype(np.int32)
    row = ((x * sin + y * cos + shapes.REACH) * step).astype(np.int32)
    cell = np.clip(row, 0, shapes.CELLS - 1) * shapes.CELLS + np.clip(column, 0, shapes.CELLS - 1)
    distance, right, up = shapes.field(thing.shape).reshape(3, -1)[:, cell]
    cos, sin = cos * thing.radius, sin * thing.radius
    return np.stack([distance * thing.radius, right * cos - up * sin, -right * sin - up * cos])


def ramp(distance: np.ndarray, width: float) -> np.ndarray:
    """Return 1 inside and 0 outside, with a smooth edge of `width` pixels to either side."""
    t = np.clip(0.5 - distance / (2 * width), 0, 1)
    return t * t * (3 - 2 * t)

"""The eight shapes of the bundled world, as signed distance fields of equal area."""

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
REACH = 2.4  # a field covers [-REACH, REACH] in units of the shape's radius
CELLS = 480
BEVEL = 0.55  # width of the rounded edge, in radii


def circle(x: Array, y: Array) -> Array:
    """Return the signed distance to a circle of radius 1, negative inside."""
    return np.hypot(x, y) - 1


def square(x: Array, y: Array, half_width: float = 0.9, half_height: float = 0.9) -> Array:
    """Return the signed distance to a rectangle with rounded corners, negative inside."""
    dx, dy = np.abs(x) - half_width, np.abs(y) - half_height
    outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
    return outside + np.minimum(np.maximum(dx, dy), 0) - 0.08


def triangle(x: Array, y: Array) -> Array:
    """Return the signed distance to an equilateral triangle, negative inside."""
    k = np.sqrt(3.0)
    x, y = np.abs(x) - 1, y + 1 / k
    fold = x + k * y > 0
    x, y = np.where(fold, (x - k * y) / 2, x), np.where(fold, (-k * x - y) / 2, y)
    x = x - np.clip(x, -2, 0)
    return -np.hypot(x, y) * np.sign(y) - 0.1


def star(x: Array, y: Array) -> Array:
    """Return the signed distance to a star with five points, negative inside."""
    cos, sin = np.cos(np.pi / 5), np.sin(np.pi / 5)
    x = np.abs(x)
    for kx, ky in ((cos, -sin), (-cos, -sin)):
        overlap = 2 * np.maximum(kx * x + ky * y, 0)
        x, y = x - overlap * kx, y - overlap * ky
    x, y = np.abs(x), y - 1
    bx, by = 0.5 * sin, 0.5 * cos - 1
    along = np.clip((x * bx + y * by) / (bx * bx + by * by), 0, 1)
    return np.hypot(x - bx * along, y - by * along) * np.sign(y * bx - x * by) - 0.05


def heart(x: Array, y: Array) -> Array:
    """Return the signed distance to a heart, negative inside."""
    x, y = np.abs(x), y + 0.5
    lobe = np.hypot(x - 0.25, y - 0.75) - np.sqrt(2) / 4
    diagonal = np.maximum(x + y, 0) / 2
    edge = np.minimum(np.hypot(x, y - 1), np.hypot(x - diagonal, y - diagonal)) * np.sign(x - y)
    return np.where(x + y > 1, lobe, edge) - 0.03


def ring(x: Array, y: Array) -> Array:
    """Return the signed distance to a ring, negative inside."""
    return np.abs(np.hypot(x, y) - 0.72) - 0.28


def cross(x: Array, y: Array) -> Array:
    """Return the signed distance to a cross of two bars, negative inside."""
    return np.minimum(square(x, y, 0.9, 0.22), square(x, y, 0.22, 0.9))


def moon(x: Array, y: Array) -> Array:
    """Return the signed distance to a crescent, negative inside."""
    return np.maximum(np.hypot(x, y) - 1, 0.85 - np.hypot(x - 0.65, y)) - 0.03


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    shape.__name__: shape for shape in (circle, square, triangle, star, heart, ring, cross, moon)
}


def grid() -> tuple[Array, Array]:
    """Return the x (to the right) and y (upwards) of the cells of a field, in radii."""
    axis = (np.arange(CELLS) + 0.5) / CELLS * 2 * REACH - REACH
    return np.meshgrid(axis, -axis)


@cache
def field(shape: str) -> Array:
    """Return a shape's distance and its slope as [3, CELLS, CELLS] (distance, d/dx, d/dy).

    The shape is moved to its centroid and scaled to the area of a circle of radius 1; distances are
    in that radius, negative inside. The slope is that of a softly rounded, pillow-like surface.
    """
    x, y = grid()
    inside = SHAPES[shape](x, y) < 0
    scale = np.sqrt(inside.sum() * (2 * REACH / CELLS) ** 2 / np.pi)
    distance = SHAPES[shape](x * scale + x[inside].mean(), y * scale + y[inside].mean()) / scale

    depth = np.clip(-distance / BEVEL, 0, 1)
    height = smooth(np.sqrt(depth * (2 - depth)), 0.13 * CELLS / (2 * REACH))
    down, right = np.gradient(height, 2 * REACH / CELLS)
    return np.stack([distance, right, -down]).astype(np.float32)


def smooth(image: Array, sigma: float) -> Array:
    """Blur a square array by a Gaussian of `sigma` cells, with wrapped edges."""
    frequency = np.fft.fftfreq(len(image))
    decay = np.exp(-2 * (np.pi * sigma * frequency) ** 2)
    return np.fft.ifft2(np.fft.fft2(image) * decay * decay[:, None]).real


@cache
def extent(shape: str) -> float:
    """Return the distance from a shape's centre to its furthest point, in radii."""
    x, y = grid()
    return float(np.hypot(x, y)[field(shape)[0] < 0].max())

"""The parser reads what the renderer draws, also through blur and noise, and knows nonsense."""

from dataclasses import replace

import numpy as np
import pytest

from fewstep.world.parser import read
from fewstep.world.scenes import BACKGROUNDS, COLOURS, Scene, Thing, render, sample_scene


def scenes(count: int) -> list[Scene]:
    rng = np.random.default_rng(1)
    return [sample_scene(rng, held_back=i % 8 == 0) for i in range(count)]


def content(scene: Scene) -> tuple:
    return scene.background, sorted((t.shape, t.colour, t.size) for t in scene.things)


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    weights = np.exp(-(np.arange(-3, 4) ** 2) / (2 * sigma**2))
    for axis in (0, 1):
        widths = [(3, 3) if i == axis else (0, 0) for i in range(3)]
        shifted = np.lib.stride_tricks.sliding_window_view(
            np.pad(image, widths, mode="edge"), 7, axis
        )
        image = shifted @ (weights / weights.sum())
    return image


def spoilt(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noisy = blurred(image, 0.7) + rng.normal(0, 6, image.shape)
    return (np.clip(noisy, 0, 255) + 0.5).astype(np.uint8)


def share_read(count: int, spoil: bool) -> float:
    rng = np.random.default_rng(2)
    drawn = scenes(count)
    images = [spoilt(render(scene), rng) if spoil else render(scene) for scene in drawn]
    right = [content(read(p)) == content(s) for p, s in zip(images, drawn, strict=True)]
    return float(np.mean(right))


def test_clean_images_are_read_without_an_error():
    assert share_read(300, spoil=False) >= 0.995


def test_blurred_and_noisy_images_are_read_almost_without_an_error():
    assert share_read(300, spoil=True) >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(("spoil", "least"), [(False, 0.995), (True, 0.99)])
def test_two_thousand_images_are_read_as_well_as_promised(spoil, least):
    assert share_read(2000, spoil) >= least


def test_places_and_radii_are_read_to_a_pixel():
    for scene in scenes(60):
        found = read(render(scene)).things
        for thing in scene.things:
            near = min(found, key=lambda f: np.hypot(f.x - thing.x, f.y - thing.y))
            assert np.hypot(near.x - thing.x, near.y - thing.y) < 1
            assert near.radius == pytest.approx(thing.radius, rel=0.1)


@pytest.mark.parametrize("angle", [0.4, 2.0, 4.0, 6.0])
def test_the_angle_of_a_heart_is_read(angle):
    scene = Scene((Thing("heart", "red", "big", 32, 30, 11, angle),), "white", 1.0, 0.8)
    assert read(render(scene)).things[0].angle == pytest.approx(angle, abs=0.1)


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_an_empty_ground_holds_nothing(background):
    assert read(render(Scene((), background, 0.5, 1.0))) == Scene((), background)


def test_a_large_image_is_read_like_a_small_one():
    for scene in scenes(20):
        assert content(read(render(scene, 192))) == content(scene)


def test_the_smallest_change_of_a_scene_is_noticed():
    scene = Scene((Thing("square", "orange", "big", 30, 30, 10.5, 0.2),), "cream", 1.0, 0.8)
    thing = scene.things[0]
    for change in ({"shape": "circle"}, {"colour": "red"}, {"colour": "yellow"}):
        changed = replace(scene, things=(replace(thing, **change),))
        assert content(read(render(changed))) == content(changed) != content(scene)
    shrunk = replace(scene, things=(replace(thing, size="small", radius=8.0),))
    assert content(read(render(shrunk))) == content(shrunk)


def test_a_small_speck_is_overlooked():
    image = render(Scene((), "white"))
    image[20:24, 20:24] = COLOURS["red"]
    assert read(image).things == ()


def test_a_bar_resembles_no_shape():
    image = render(Scene((), "white"))
    image[28:34, 12:52] = COLOURS["blue"]
    assert [thing.shape for thing in read(image).things] == ["unknown"]


def test_two_things_run_together_are_no_shape():
    things = tuple(Thing("circle", "red", "small", x, 32, 8, 0) for x in (26.0, 38.0))
    assert [t.shape for t in read(render(Scene(things, "white"))).things] == ["unknown"]


@pytest.mark.parametrize("kind", ["noise", "black", "white", "halves", "tiny"])
def test_nonsense_is_read_as_no_known_shape(kind):
    rng = np.random.default_rng(0)
    image = {
        "noise": rng.integers(0, 256, (64, 64, 3), dtype=np.uint8),
        "black": np.zeros((64, 64, 3), np.uint8),
        "white": np.full((64, 64, 3), 255, np.uint8),
        "halves": np.tile(np.repeat(np.uint8([[[255, 0, 0]], [[0, 0, 255]]]), 32, 0), (1, 64, 1)),
        "tiny": np.zeros((3, 5, 3), np.uint8),
    }[kind]
    assert all(thing.shape == "unknown" for thing in read(image).things)

"""The bundled world: what scenes are drawn, and how they look."""

from dataclasses import replace

import numpy as np
import pytest

from fewstep.world.scenes import (
    BACKGROUNDS,
    COLOURS,
    FRAME,
    GAP,
    HELD_BACK,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    gap,
    render,
    sample_scene,
)
from fewstep.world.shapes import extent


def scenes(count: int, seed: int = 0, **options) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, **options) for _ in range(count)]


def pairs(scene: Scene) -> set[tuple[str, str]]:
    return {(thing.shape, thing.colour) for thing in scene.things}


def test_training_scenes_hold_no_held_back_pair_and_all_others():
    seen = set().union(*map(pairs, scenes(1500)))
    assert seen == {(shape, colour) for shape in SHAPES for colour in COLOURS} - HELD_BACK


def test_every_held_back_scene_holds_a_held_back_pair():
    drawn = scenes(300, held_back=True)
    assert all(pairs(scene) & HELD_BACK for scene in drawn)
    assert set().union(*map(pairs, drawn)) >= HELD_BACK


def test_no_shape_and_no_colour_is_held_back_more_than_once():
    for part in zip(*HELD_BACK, strict=True):
        assert len(set(part)) == len(HELD_BACK)


def test_things_keep_off_the_frame_and_off_each_other():
    for scene in scenes(500):
        for i, thing in enumerate(scene.things):
            reach = thing.radius * extent(thing.shape) + GAP
            assert reach <= min(thing.x, thing.y) + 1e-9
            assert max(thing.x, thing.y) <= FRAME - reach + 1e-9
            assert all(gap(thing, other) >= GAP for other in scene.things[:i])


def test_the_sizes_leave_a_gap_and_every_radius_is_of_its_size():
    assert SIZES["small"][1] * 1.25 < SIZES["big"][0]
    for scene in scenes(300):
        for thing in scene.things:
            low, high = SIZES[thing.size]
            assert low <= thing.radius <= high


def test_one_two_and_three_things_are_all_frequent():
    counts = np.bincount([len(scene.things) for scene in scenes(2000)], minlength=4) / 2000
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:], [0.27, 0.43, 0.3], atol=0.05)


def test_a_scene_is_drawn_the_same_twice():
    a, b = scenes(5, seed=7), scenes(5, seed=7)
    assert a == b
    assert all(np.array_equal(render(x), render(y)) for x, y in zip(a, b, strict=True))


def test_different_seeds_never_share_an_image():
    images = {render(scenes(1, seed)[0]).tobytes() for seed in range(1000)}
    assert len(images) == 1000


@pytest.mark.parametrize("size", [32, 64, 128])
def test_an_image_is_rgb_bytes_of_the_asked_size(size):
    image = render(scenes(1)[0], size)
    assert image.dtype == np.uint8
    assert image.shape == (size, size, 3)


def test_a_large_image_averages_to_the_small_one():
    for scene in scenes(10):
        large = render(scene, 256).reshape(64, 4, 64, 4, 3).mean((1, 3))
        assert np.abs(large - render(scene)).mean() < 1.0


@pytest.mark.parametrize("shape", SHAPES)
def test_all_shapes_of_a_radius_cover_the_area_of_its_circle(shape):
    thing = Thing(shape, "blue", "big", 32, 32, 12, 0.3)
    image = render(Scene((thing,), "white"), 256)
    covered = (image[..., 0] < 143).mean() * FRAME**2  # half way between 248 and 38
    assert covered == pytest.approx(np.pi * 12**2, rel=0.02)


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("colour", COLOURS)
def test_without_light_ground_and_thing_have_the_colours_of_the_tables(background, colour):
    thing = Thing("circle", colour, "big", 32, 32, 12, 0)
    image = render(Scene((thing,), background))
    assert tuple(image[1, 1]) == BACKGROUNDS[background]
    assert tuple(image[32, 32]) == COLOURS[colour]


def test_the_side_towards_the_light_is_brighter():
    thing = Thing("circle", "blue", "big", 32, 32, 12, 0)
    scene = Scene((thing,), "grey", depth=1.0)
    right = render(scene).astype(float)
    above = render(replace(scene, light=np.pi / 2)).astype(float)
    assert right[32, 41].sum() > right[32, 22].sum() + 30
    assert above[22, 32].sum() > above[41, 32].sum() + 30


def test_an_angle_turns_a_thing_anticlockwise():
    upright = render(Scene((Thing("moon", "red", "big", 32, 32, 12, 0),), "white"))
    turned = render(Scene((Thing("moon", "red", "big", 32, 32, 12, np.pi / 2),), "white"))
    assert np.abs(np.rot90(upright).astype(int) - turned).mean() < 0.5

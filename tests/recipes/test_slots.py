"""Which slots of a caption describe each thing of a scene."""

import numpy as np
import pytest

from fewstep.world.captions import describe
from fewstep.world.scenes import Scene, Thing, sample_scene
from fewstep.world.sentences import claims
from recipes.bundled_teacher.slots import MAX_THINGS, NO_SLOT, SLOTS, slots_of_things

HEART = Thing("heart", "red", "big", 20.0, 16.0, 12.0, 0.0)
STAR = Thing("star", "blue", "small", 44.0, 48.0, 7.0, 0.0)
MOON = Thing("moon", "blue", "small", 12.0, 50.0, 7.0, 0.0)
SCENE = Scene((STAR, HEART, MOON), "mint")


def names(caption: str) -> list[tuple[str, str] | None]:
    """Return the names of each thing's slots."""
    rows = [row[3:] for row in slots_of_things(SCENE, caption)]
    return [None if row[0] == NO_SLOT else tuple(SLOTS[int(n)] for n in row) for row in rows]


@pytest.mark.parametrize(
    ("caption", "star", "heart", "moon"),
    [
        ("a red heart above a star", ("second", "bottom"), ("first", "top"), None),
        ("a star to the right of a heart", ("first", "right"), ("second", "left"), None),
        ("a moon with a heart above a star", ("third", "bottom"), ("second", "top"),
         ("first", "first")),
        ("two blue things", ("first", "first"), None, ("first", "first")),
    ],
)  # fmt: skip
def test_each_thing_has_the_slots_of_its_mention_and_its_side(caption, star, heart, moon):
    assert names(caption) == [star, heart, moon]


def test_positions_are_in_units_of_the_image():
    (star, heart, _) = slots_of_things(SCENE, "a heart above a star")
    assert star[:3] == [44 / 64, 48 / 64, 7 / 64]
    assert heart[:3] == [20 / 64, 16 / 64, 12 / 64]


def test_every_caption_is_true_of_the_things_it_mentions():
    for number in range(300):
        rng = np.random.default_rng([9, number])
        scene = sample_scene(rng)
        caption = describe(scene, rng)
        parsed, rows = claims(caption), slots_of_things(scene, caption)
        assert len(rows) == MAX_THINGS
        mentioned = [
            (row, t) for row, t in zip(rows, scene.things, strict=False) if row[3] != NO_SLOT
        ]
        assert len(mentioned) == sum(mention.count for mention in parsed.mentions)
        assert all(parsed.mentions[int(row[3])].fits(thing) for row, thing in mentioned)
        at = {SLOTS[int(row[4])]: thing for row, thing in mentioned}
        assert "top" not in at or at["top"].y < at["bottom"].y
        assert "left" not in at or at["left"].x < at["right"].x

"""The slots of a caption's content, and which slots describe each thing of a scene.

The text encoder's last tokens are query tokens: each answers for one slot, and the very last one
for the background.
"""

from itertools import permutations

from fewstep.world.claims import check_match
from fewstep.world.scenes import COUNT_SHARES, FRAME, Scene
from fewstep.world.sentences import claims

MAX_THINGS = len(COUNT_SHARES)
SLOTS = ("first", "second", "third", "top", "bottom", "left", "right")
SIDES = {  # of a relation's first and second mention
    "above": ("top", "bottom"),
    "below": ("bottom", "top"),
    "to the left of": ("left", "right"),
    "to the right of": ("right", "left"),
}
NUM_QUERY_TOKENS = len(SLOTS) + 1
NO_SLOT = -1


def slots_of_things(scene: Scene, caption: str) -> list[list[float]]:
    """Return x, y and radius of each thing, relative to the image, and its two slots.

    They are indices into SLOTS: of its mention, and of its side or the mention again; NO_SLOT where
    the caption does not mention it.
    """
    parsed = claims(caption)
    mentions = [number for number, one in enumerate(parsed.mentions) for _ in range(one.count)]
    match = next(
        things
        for things in permutations(range(len(scene.things)), len(mentions))
        if all(
            check_match(
                parsed,
                [
                    (parsed.mentions[m], scene.things[i])
                    for m, i in zip(mentions, things, strict=True)
                ],
                scene,
            ).values()
        )
    )
    sides = dict(enumerate(range(MAX_THINGS)))
    if parsed.relation:
        last = range(len(parsed.mentions) - 2, len(parsed.mentions))
        sides.update(zip(last, map(SLOTS.index, SIDES[parsed.relation]), strict=True))
    slots = [[0.0, 0.0, 0.0, NO_SLOT, NO_SLOT] for _ in range(MAX_THINGS)]
    for mention, number in zip(mentions, match, strict=True):
        thing = scene.things[number]
        position = (thing.x / FRAME, thing.y / FRAME, thing.radius / FRAME)
        slots[number] = [*position, mention, sides[mention]]
    return slots

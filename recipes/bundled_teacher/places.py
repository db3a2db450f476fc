"""What a caption tells of each place in an image, and of each thing of a scene."""

from itertools import permutations

from fewstep.world.captions import claims
from fewstep.world.claims import judge_match
from fewstep.world.scenes import COUNT_SHARES, FRAME, Scene

MOST = len(COUNT_SHARES)  # things of a scene
PLACES = ("first", "second", "third", "top", "bottom", "left", "right")
SIDES = {  # of a relation's first and second mention
    "above": ("top", "bottom"),
    "below": ("bottom", "top"),
    "to the left of": ("left", "right"),
    "to the right of": ("right", "left"),
}
ASKED = len(PLACES) + 1  # as many last tokens are asked: one a place, then one for the background
UNTOLD = -1


def told_places(scene: Scene, caption: str) -> list[list[float]]:
    """Return x, y and radius of each thing, in images, and the two places that tell of it.

    They are numbers of PLACES: of its mention, and of its side or the mention again; -1 where the
    caption does not speak of it.
    """
    told = claims(caption)
    mentions = [number for number, one in enumerate(told.mentions) for _ in range(one.count)]
    match = next(
        things
        for things in permutations(range(len(scene.things)), len(mentions))
        if all(
            judge_match(
                told,
                [
                    (told.mentions[m], scene.things[i])
                    for m, i in zip(mentions, things, strict=True)
                ],
                scene,
            ).values()
        )
    )
    sides = dict(enumerate(range(MOST)))
    if told.relation:
        last = range(len(told.mentions) - 2, len(told.mentions))
        sides.update(zip(last, map(PLACES.index, SIDES[told.relation]), strict=True))
    places = [[0.0, 0.0, 0.0, UNTOLD, UNTOLD] for _ in range(MOST)]
    for mention, number in zip(mentions, match, strict=True):
        thing = scene.things[number]
        where = (thing.x / FRAME, thing.y / FRAME, thing.radius / FRAME)
        places[number] = [*where, mention, sides[mention]]
    return places

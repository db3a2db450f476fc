"""Random captions of scenes."""

import numpy as np

from fewstep.world.scenes import Scene, Thing
from fewstep.world.sentences import Claims, Mention

CLEAR = 12.0  # least pixels between two things whose relation is named
MOST_WORDS = 15  # in a caption


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """Return a true caption of a random part of a scene, of at most MOST_WORDS."""
    while len((caption := caption_of(scene, rng)).split()) > MOST_WORDS:
        pass
    return caption


def caption_of(scene: Scene, rng: np.random.Generator) -> str:
    """Return a true caption of a random part of a scene, of any length."""
    things = [scene.things[i] for i in rng.permutation(len(scene.things))]
    if rng.random() < 0.14:
        return str(Mention(shape=things[0].shape))
    background = scene.background if rng.random() < 0.4 else None
    mentions = mention_group(things, rng)
    relation = None
    if not mentions:
        few = 1 + int(rng.random() < 0.85) + int(rng.random() < 0.35)
        things = things[:few]
        mentions = [mention(thing, rng) for thing in things]
        if len(things) > 1 and rng.random() < 0.9:
            relation = relation_between(things[-2], things[-1], rng)
        if len(set(mentions)) < len(mentions):  # not "a star and a star"
            mentions, relation = mentions[:1], None
    if relation and len(mentions) > 2:  # long enough
        background = None
    return str(Claims(tuple(mentions), relation, background))


def mention_group(things: list[Thing], rng: np.random.Generator) -> list[Mention]:
    """Mention several like things by their number and perhaps others, or return nothing."""
    first = mention(things[0], rng)
    if rng.random() < 0.15:
        first = Mention(colour=first.colour if rng.random() < 0.5 else None)
    alike = [thing for thing in things if first.fits(thing)]
    others = [thing for thing in things if not first.fits(thing)]
    if len(alike) < 2 or rng.random() < 0.3:
        return []
    group = Mention(len(alike), first.size, first.colour, first.shape)
    return [group, *(mention(thing, rng) for thing in others if rng.random() < 0.5)]


def mention(thing: Thing, rng: np.random.Generator) -> Mention:
    """Mention a thing by some of its attributes."""
    colour = thing.colour if rng.random() < 0.82 else None
    size = thing.size if rng.random() < 0.2 else None
    shape = None if colour and rng.random() < 0.04 else thing.shape
    return Mention(1, size, colour, shape)


def relation_between(a: Thing, b: Thing, rng: np.random.Generator) -> str | None:
    """Name the side of b on which a clearly lies, or return None."""
    dx, dy = a.x - b.x, a.y - b.y
    if max(abs(dx), abs(dy)) < CLEAR:
        return None
    if abs(dy) >= abs(dx):
        return "above" if dy < 0 else "below"
    return "to the left of" if dx < 0 else "to the right of"

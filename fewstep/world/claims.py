"""Compare a caption's claims with a scene, a true one or one read from an image."""

from collections.abc import Sequence
from itertools import permutations

from fewstep.world.scenes import SHAPES, Scene, Thing
from fewstep.world.sentences import RELATIONS, Claims, Mention

ENOUGH = 4.0  # pixels apart for a relation to hold
Match = Sequence[tuple[Mention, Thing | None]]


def check_claims(claims: Claims, scene: Scene) -> dict[str, bool]:
    """Return for each kind of claim in a caption whether it holds in a scene.

    The kinds are "shape", "colour", "size", "count", "relation" and "background". Each mention is
    matched with another thing, in the way that makes most kinds hold; the caption is right if and
    only if all of them do. Things of unknown shape are ignored.
    """
    slots = [mention for mention in claims.mentions for _ in range(mention.count)]
    things: list[Thing | None] = [thing for thing in scene.things if thing.shape in SHAPES]
    things += [None] * (len(slots) - len(things))
    verdicts = (
        check_match(claims, list(zip(slots, match, strict=True)), scene)
        for match in permutations(things, len(slots))
    )
    return max(verdicts, key=lambda verdict: sum(verdict.values()))


def check_match(claims: Claims, match: Match, scene: Scene) -> dict[str, bool]:
    """Return which kinds of claims hold with each mention's matched thing (None: no thing)."""
    verdict = {
        kind: all(thing is not None and mention.fits(thing, (kind,)) for mention, thing in match)
        for kind in ("shape", "colour", "size")
        if any(getattr(mention, kind) for mention in claims.mentions)
    }
    several = [mention for mention in claims.mentions if mention.count > 1]
    if several:  # where the colour is wrong, the number of such shapes may still be right
        right = tuple(kind for kind, holds in verdict.items() if holds)
        verdict["count"] = all(
            sum(mention.fits(thing, right) for thing in scene.things) == mention.count
            for mention in several
        )
    if claims.relation:
        a, b = (thing for _, thing in match[-2:])
        verdict["relation"] = a is not None and b is not None and holds(claims.relation, a, b)
    if claims.background:
        verdict["background"] = claims.background == scene.background
    return verdict


def holds(relation: str, a: Thing, b: Thing) -> bool:
    """Return whether thing a is in this relation to thing b."""
    axis, sign = RELATIONS[relation]
    return sign * (getattr(a, axis) - getattr(b, axis)) > ENOUGH

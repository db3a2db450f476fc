"""The language of captions: what can be said of a scene, in words and as claims."""

import re
from dataclasses import dataclass, replace

from fewstep.world.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, Thing

COUNTS = {"a": 1, "an": 1, "two": 2, "three": 3}
RELATIONS = {  # name: (axis, sign) of the way from the second thing to the first; y is downwards
    "above": ("y", -1),
    "below": ("y", 1),
    "to the left of": ("x", -1),
    "to the right of": ("x", 1),
}


@dataclass(frozen=True)
class Mention:
    """What is said of one thing, or of exactly `count` alike; None where nothing is said."""

    count: int = 1
    size: str | None = None
    colour: str | None = None
    shape: str | None = None

    def fits(self, thing: Thing, kinds: tuple[str, ...] = ("shape", "colour", "size")) -> bool:
        """Tell whether what is said under the given kinds holds of a thing of known shape."""
        said = {kind: getattr(self, kind) for kind in kinds}
        return thing.shape in SHAPES and all(
            value is None or value == getattr(thing, kind) for kind, value in said.items()
        )

    def __str__(self) -> str:
        name = noun(self.shape or "thing", self.count)
        words = " ".join(word for word in (self.size, self.colour, name) if word)
        article = "an" if words[0] in "aeiou" else "a"
        return f"{(article, 'two', 'three')[self.count - 1]} {words}"


@dataclass(frozen=True)
class Claims:
    """All that a caption says; a relation holds between the last two mentions."""

    mentions: tuple[Mention, ...]
    relation: str | None = None
    background: str | None = None

    def __str__(self) -> str:
        words = [str(mention) for mention in self.mentions]
        if len(words) > 1:
            words[-2:] = [f"{words[-2]} {self.relation or 'and'} {words[-1]}"]
        ground = f" on a {self.background} background" if self.background else ""
        return " with ".join(words) + ground


def claims(caption: str) -> Claims:
    """Read a caption back into what it claims.

    Raises:
        ValueError: a word or phrase is not one that captions of this world use.
    """
    body, on, ground = " ".join(caption.lower().split()).partition(" on a ")
    background = ground.removesuffix(" background")
    if on and (background not in BACKGROUNDS or background == ground):
        raise ValueError(f"cannot read the ground {ground!r}: say e.g. 'on a white background'")
    phrases = re.split(rf" (with|and|{'|'.join(RELATIONS)}) ", body)
    joints = phrases[1::2]
    if any(joint in RELATIONS for joint in joints[:-1]):
        raise ValueError(f"cannot read {body!r}: a relation stands between the last two things")
    relation = joints[-1] if joints and joints[-1] in RELATIONS else None
    return Claims(tuple(map(read_mention, phrases[::2])), relation, background or None)


def read_mention(phrase: str) -> Mention:
    """Read a phrase such as "two big red stars"."""
    article, *words = phrase.split() or [""]
    if article not in COUNTS or not words:
        raise ValueError(f"cannot read {phrase!r}: say e.g. 'a red heart' or 'two big stars'")
    size = words.pop(0) if words[0] in SIZES else None
    colour = words.pop(0) if words and words[0] in COLOURS else None
    found = Mention(COUNTS[article], size, colour)
    shape = next((s for s in SHAPES if words == [noun(s, found.count)]), None)
    if shape is None and words != [noun("thing", found.count)]:
        raise ValueError(
            f"cannot read {' '.join(words)!r} in {phrase!r}; known shapes: {', '.join(SHAPES)}"
        )
    return replace(found, shape=shape)


def noun(name: str, count: int) -> str:
    """Return a noun in the number that a count asks for."""
    return name if count == 1 else name + ("es" if name.endswith("s") else "s")


def all_words() -> list[str]:
    """Return the words of all captions, each once and in a fixed order."""
    nouns = [noun(name, count) for name in (*SHAPES, "thing") for count in (1, 2)]
    joints = [word for phrase in RELATIONS for word in phrase.split()]
    words = [*COUNTS, *SIZES, *COLOURS, *nouns, *joints, "and", "with", "on", *BACKGROUNDS]
    return list(dict.fromkeys([*words, "background"]))

"""The language of captions: their words, and what they claim about a scene."""

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
    """A phrase for one thing, or for exactly `count` alike; None is an attribute left out."""

    count: int = 1
    size: str | None = None
    colour: str | None = None
    shape: str | None = None

    def fits(self, thing: Thing, kinds: tuple[str, ...] = ("shape", "colour", "size")) -> bool:
        """Return whether a thing has a known shape and the mentioned attributes of these kinds."""
        return thing.shape in SHAPES and all(
            getattr(self, kind) in (None, getattr(thing, kind)) for kind in kinds
        )

    def __str__(self) -> str:
        name = noun(self.shape or "thing", self.count)
        words = " ".join(word for word in (self.size, self.colour, name) if word)
        article = "an" if words[0] in "aeiou" else "a"
        return f"{(article, 'two', 'three')[self.count - 1]} {words}"


@dataclass(frozen=True)
class Claims:
    """Everything that a caption claims; a relation is between the last two mentions."""

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
    """Parse a caption into its claims.

    Raises:
        ValueError: if a word or phrase is not one of this world's captions.
    """
    body, on, ground = " ".join(caption.lower().split()).partition(" on a ")
    background = ground.removesuffix(" background")
    if on and (background not in BACKGROUNDS or background == ground):
        raise ValueError(f"cannot read the ground {ground!r}: write e.g. 'on a white background'")
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
        raise ValueError(f"cannot read {phrase!r}: write e.g. 'a red heart' or 'two big stars'")
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
    """Return a noun, in the plural for a count above 1."""
    return name if count == 1 else name + ("es" if name.endswith("s") else "s")


def all_words() -> list[str]:
    """Return the words of all captions, each once and in a fixed order."""
    nouns = [noun(name, count) for name in (*SHAPES, "thing") for count in (1, 2)]
    joints = [word for phrase in RELATIONS for word in phrase.split()]
    words = [*COUNTS, *SIZES, *COLOURS, *nouns, *joints, "and", "with", "on", *BACKGROUNDS]
    return list(dict.fromkeys([*words, "background"]))


def unknown_words(prompt: str) -> list[str]:
    """Return the words of a prompt that the bundled teacher was not trained on, each once.

    The tokenizer would split them into letters, which the teacher has not learnt.

    >>> unknown_words("A red elephant on a white background, please")
    ['elephant', 'please']
    """
    known = set(all_words())
    words = re.findall(r"[^\W_]+", prompt.lower())
    return [word for word in dict.fromkeys(words) if word not in known]

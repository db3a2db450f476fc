"""The bundled world on the page: prompts from menus, and what the parser reads in an image."""

import numpy as np
from PIL import Image

from fewstep.world.claims import check_claims
from fewstep.world.parser import read
from fewstep.world.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES
from fewstep.world.sentences import COUNTS, RELATIONS, Claims, Mention, claims

ANY = "–"
"""The menus' word for an attribute that is left out."""

MENUS = {
    "Number": tuple(word for word in COUNTS if word != "an"),
    "Size": (ANY, *SIZES),
    "Colour": (ANY, *COLOURS),
    "Shape": (*SHAPES, "thing"),
}
"""What is chosen for each of two things, in the order of a caption's words."""

JOINTS = ("alone", "and", *RELATIONS)
GROUNDS = (ANY, *BACKGROUNDS)


def compose(*chosen: str) -> str:
    """Return the caption of two things' menus, with the joint between them, and a background.

    >>> compose("a", "–", "red", "heart", "above", "two", "small", "–", "star", "mint")
    'a red heart above two small stars on a mint background'
    >>> compose("three", "–", "–", "thing", "alone", "a", "–", "blue", "moon", "–")
    'three things'
    """
    size = len(MENUS)
    first, joint, second, ground = chosen[:size], chosen[size], chosen[size + 1 : -1], chosen[-1]
    mentions = (mention(*first),) if joint == "alone" else (mention(*first), mention(*second))
    relation = joint if joint in RELATIONS else None
    return str(Claims(mentions, relation, None if ground == ANY else ground))


def mention(number: str, size: str, colour: str, shape: str) -> Mention:
    """Return the mention that one thing's menus make."""
    named = (None if word in (ANY, "thing") else word for word in (size, colour, shape))
    return Mention(COUNTS[number], *named)


def verdict(prompt: str, image: Image.Image) -> dict[str, bool]:
    """Return for each kind of claim in the prompt whether the parser finds it in the image.

    It is empty for a prompt that is no caption of this world.
    """
    try:
        claimed = claims(prompt)
    except ValueError:
        return {}
    return check_claims(claimed, read(np.asarray(image)))

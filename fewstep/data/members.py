"""Which files of a folder or a shard are images to train on, and which belong to another file."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import TypeVar

from fewstep.data.files import CAPTION_SUFFIXES, IMAGE_SUFFIXES, is_image
from fewstep.text import one_spelling

LABELS = ("-masklabel", "-condlabel")
"""What OneTrainer writes behind an image's name for its mask and its conditioning image."""

File = TypeVar("File", bound=PurePath)


def key_of(file: PurePath) -> str:
    """Return what an image and its caption have in common: the name without its last suffix."""
    return one_spelling(str(file.with_suffix("")))


def is_caption(file: PurePath) -> bool:
    """Return whether a file's name is that of a caption."""
    return file.suffix.lower() in CAPTION_SUFFIXES


def is_excluded(file: PurePath, patterns: Sequence[str]) -> bool:
    """Return whether a file's name, or its whole path, is one of these patterns, in any case.

    >>> is_excluded(PurePath("a/K.DEPTH.png"), ["*.depth.png"])
    True
    """
    names = (file.name.lower(), file.as_posix().lower())
    return any(fnmatchcase(name, pattern.lower()) for pattern in patterns for name in names)


def split_images(files: Iterable[File]) -> tuple[list[File], list[File]]:
    """Return the images of these files, and apart from them those that describe another image.

    These are `k-masklabel.png` and, where it has no caption of its own, `k.depth.png`, if there
    is an image `k`: webdataset too takes what follows the first dot for the kind of a file.
    """
    files = list(files)
    captioned = {key_of(file) for file in files if is_caption(file)}
    keys = {key_of(file) for file in files if is_image(file)}
    images, sidecars = [], []
    for file in filter(is_image, files):
        (sidecars if _describes_another(key_of(file), keys, captioned) else images).append(file)
    return images, sidecars


def _describes_another(key: str, keys: set[str], captioned: set[str]) -> bool:
    if any(key.lower().endswith(label) and key[: -len(label)] in keys for label in LABELS):
        return True
    if key in captioned:
        return False
    parent, *kinds = PurePath(key).name.split(".")
    folder = PurePath(key).parent
    ends = range(len(kinds))
    return any(str(folder / ".".join([parent, *kinds[:end]])) in keys for end in ends)


def pattern_of(name: str) -> str:
    """Return the pattern of data.exclude for the names of a kind: of one label, or one ending.

    >>> pattern_of("a/k.depth.png"), pattern_of("s.tar: k-masklabel.png"), pattern_of("README")
    ('*.depth.png', '*-masklabel.png', 'README')
    """
    file = PurePath(name.rpartition(": ")[2]).name
    stem, dot, ending = file.partition(".")
    label = next((label for label in LABELS if stem.lower().endswith(label)), "")
    return f"*{label}{dot}{ending}" if dot and stem else file


def is_sidecar_pattern(pattern: str) -> bool:
    """Return whether a pattern of `pattern_of` is of sidecars alone, and of no image or caption.

    >>> list(map(is_sidecar_pattern, ["*.depth.png", "*-masklabel.png", "*.png", "README"]))
    [True, True, False, False]
    """
    ending = pattern.removeprefix("*").lower()
    return pattern.startswith("*") and ending not in (*IMAGE_SUFFIXES, *CAPTION_SUFFIXES)


def captions_alone(files: Iterable[File], images: Iterable[File]) -> Mapping[File, list[str]]:
    """Return the captions of none of these images, and the names of the files beside each."""
    keys, beside = set(map(key_of, images)), defaultdict(list)
    captions = []
    for file in files:
        if is_caption(file):
            captions.append(file)
        else:
            beside[key_of(file)].append(file.name)
    return {file: beside[key_of(file)] for file in captions if key_of(file) not in keys}


def without_image(caption: str, beside: Sequence[str]) -> str:
    """Return why a caption and the files beside it are no sample."""
    others = f"only {' and '.join(beside)}: add one, or remove them" if beside else "remove it"
    return f"{caption} has no image ({', '.join(IMAGE_SUFFIXES)}) beside it, {others}"

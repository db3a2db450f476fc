"""What a protocol asks for: its prompts, and the real images that sets are compared with."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from fewstep.errors import UserError
from fewstep.evaluation.generate import BATCH
from fewstep.evaluation.protocols import PROTOCOLS, Protocol
from fewstep.images import Images
from fewstep.student.sample import gather_prompts
from fewstep.world.captions import describe
from fewstep.world.scenes import render, sample_scene

PROMPT_SEED, REFERENCE_SEED = 1_000_003, 1_000_033  # no pool of training scenes has these
NUM_REFERENCES = 5000


@dataclass(frozen=True)
class Real:
    """Real images, in batches; `identity` changes with anything that they depend on."""

    identity: str
    batches: Callable[[], Iterator[Images]]


@dataclass(frozen=True)
class Task:
    """The prompts of a protocol, and its real images if it has any."""

    name: str
    protocol: Protocol
    prompts: list[str]
    real: Real | None


def open_task(
    name: str, num_prompts: int | None, prompt_file: Path | None, data: Path | None, side: int
) -> Task:
    """Return what the protocol `name` asks for; `side` is that of the images in pixels.

    Raises:
        UserError: if the protocol is unknown, lacks its prompts or its data, or is given what it
            does not take.
    """
    if name not in PROTOCOLS:
        raise UserError(f"unknown protocol {name!r}; known: {', '.join(PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    if num_prompts is not None and num_prompts < 2:
        raise UserError(f"--num-prompts is {num_prompts}; an interval needs 2 or more")
    for option, value, taken in (
        ("--prompts", prompt_file, name == "prompts"),
        ("--data", data, bool(protocol.captions)),
    ):
        if value is not None and not taken:
            raise UserError(f"protocol {name!r} takes no {option}; leave it out")
    if protocol.captions:
        return coco(name, protocol, num_prompts, data, protocol.side or side)
    if name == "prompts":
        if prompt_file is None:
            raise UserError("protocol 'prompts' needs --prompts FILE, one prompt a line")
        prompts = gather_prompts([], prompt_file)
        return Task(name, protocol, enough(prompts, num_prompts, prompt_file), None)
    num = protocol.num_prompts if num_prompts is None else num_prompts
    return Task(
        name, protocol, held_out_prompts(num or 0), Real(f"{NUM_REFERENCES} renderings", renderings)
    )


def enough(prompts: list[str], wanted: int | None, source: Path) -> list[str]:
    """Return as many prompts as are wanted, or all.

    Raises:
        UserError: if there are fewer.
    """
    if wanted is not None and wanted > len(prompts):
        raise UserError(
            f"--num-prompts is {wanted}, and {source} holds {len(prompts)} prompts; leave it out, "
            "or ask for fewer"
        )
    return prompts[:wanted]


def held_out_prompts(num: int, seed: int = PROMPT_SEED) -> list[str]:
    """Return captions of scenes that no training set holds; with another seed none that judges."""
    prompts = []
    for i in range(num):
        rng = np.random.default_rng([seed, i])
        prompts.append(describe(sample_scene(rng), rng))
    return prompts


def renderings() -> Iterator[Images]:
    """Yield real renderings of the bundled world, of scenes that no training set holds."""
    for first in range(0, NUM_REFERENCES, BATCH):
        seeds = ([REFERENCE_SEED, i] for i in range(first, first + BATCH))
        yield np.stack([render(sample_scene(np.random.default_rng(seed))) for seed in seeds])


def coco(
    name: str, protocol: Protocol, num_prompts: int | None, data: Path | None, side: int
) -> Task:
    """Take prompts and images from a folder of COCO.

    The prompts are the first caption of each image, or drawn from all where the protocol says
    so; the reference are all images.

    Raises:
        UserError: if the folder is not there or holds too few captions.
    """
    from fewstep.data.folders import captions_files, read_coco
    from fewstep.data.images import decode

    if data is None:
        raise UserError(
            f"protocol {name!r} needs --data FOLDER with COCO's annotations/captions_"
            f"{protocol.captions}.json and {protocol.captions}/; both are at cocodataset.org"
        )
    files = {path.stem.removeprefix("captions_"): path for path in captions_files(data)}
    if protocol.captions not in files:
        raise UserError(
            f"{data} has no annotations/captions_{protocol.captions}.json; download it from "
            "cocodataset.org"
        )
    found = read_coco(files[protocol.captions])
    num = protocol.num_prompts if num_prompts is None else num_prompts
    prompts = in_any_order(found.texts) if protocol.draws else [texts[0] for texts in found.texts]
    prompts = enough(prompts, num, data)

    def real() -> Iterator[Images]:
        for first in range(0, len(found.files), BATCH):
            paths = [found.folder / file for file in found.files[first : first + BATCH]]
            yield np.stack([reference(path, side) for path in paths])

    def reference(path: Path, side: int) -> np.ndarray:
        try:
            return middle(decode(path.read_bytes()), side)
        except (OSError, UserError) as error:
            raise UserError(f"the reference image {path} cannot be read: {error}") from error

    identity = f"{found.identity} {side}"
    told = replace(protocol, reference=protocol.reference.format(num=len(found.files)))
    return Task(name, told, prompts, Real(identity, real))


def in_any_order(captions: Sequence[Sequence[str]]) -> list[str]:
    """Return the captions of all images in an order that was drawn once for all.

    >>> sorted(in_any_order([("a cat", "a dog"), ("a hat",)]))
    ['a cat', 'a dog', 'a hat']
    """
    everything = [text for texts in captions for text in texts]
    order = np.random.default_rng(PROMPT_SEED).permutation(len(everything))
    return [everything[i] for i in order]


def middle(image: Image.Image, side: int) -> np.ndarray:
    """Return the square in the middle of an image, resized."""
    short = min(image.size)
    left, top = (image.width - short) / 2, (image.height - short) / 2
    box = (left, top, left + short, top + short)
    return np.asarray(image.resize((side, side), Image.Resampling.LANCZOS, box=box))

"""A protocol's prompts, and the reference images that sets of images are compared with."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fewstep.data.captions import SampleErrors
from fewstep.data.coco import captions_files, read_coco
from fewstep.data.folders import ImageFiles
from fewstep.errors import UserError
from fewstep.evaluation.features import EXTRACTORS
from fewstep.evaluation.protocols import PROTOCOLS, Protocol
from fewstep.evaluation.samples import batches, read_image
from fewstep.images import Images
from fewstep.student.sample import gather_prompts
from fewstep.world.captions import describe
from fewstep.world.scenes import FRAME, render, sample_scene

PROMPT_SEED, REFERENCE_SEED = 1_000_003, 1_000_033  # no pool of training scenes has these
NUM_REFERENCES = 5000


@dataclass(frozen=True)
class Reference:
    """Real images, in batches; `identity` changes with anything that they depend on."""

    identity: str
    description: str
    batches: Callable[[], Iterator[Images]]


@dataclass(frozen=True)
class EvaluationInputs:
    """A protocol's prompts (none for images that come without) and its real images, if any."""

    name: str
    protocol: Protocol
    prompts: Sequence[str]
    reference: Reference | None = None

    def describe(self, images: str, resolution: int, extractors: Iterable[str]) -> str:
        """Return all that a number depends on, in words; `images` says how they were generated."""
        digest = hashlib.sha256("\n".join(self.prompts).encode()).hexdigest()[:8]
        side = self.protocol.side
        parts = [
            self.name,
            f"{len(self.prompts)} {self.protocol.prompts} ({digest})" if self.prompts else "",
            self.reference.description if self.reference else "",
            f"{resolution} px",
            f"images resized to {side} (Lanczos)" if side else "",
            images,
            *(EXTRACTORS[extractor].title for extractor in extractors),
        ]
        return "; ".join(part for part in parts if part)


def find_protocol(name: str) -> Protocol:
    """Raises UserError if the protocol is unknown."""
    if name not in PROTOCOLS:
        raise UserError(f"unknown protocol {name!r}; known: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def load_inputs(
    name: str,
    side: int,
    num_prompts: int | None = None,
    prompt_file: Path | None = None,
    data: Path | None = None,
) -> EvaluationInputs:
    """Return the prompts and the real images of a protocol, for images of `side` pixels.

    Raises:
        UserError: if it is unknown, lacks its prompts or data, or takes no such option.
    """
    protocol = find_protocol(name)
    if num_prompts is not None and num_prompts < 2:
        raise UserError(f"--num-prompts is {num_prompts}; a mean over images needs 2 or more")
    if prompt_file and protocol.num_prompts is not None:
        raise UserError(f"protocol {name!r} takes no --prompts; leave it out")
    coco = find_coco(name, data)
    wanted = protocol.num_prompts if num_prompts is None else num_prompts
    if protocol.num_prompts is None:
        if prompt_file is None:
            raise UserError(f"protocol {name!r} needs --prompts FILE, one prompt a line")
        prompts = first_prompts(gather_prompts([], prompt_file), wanted, prompt_file)
    elif coco:
        texts = in_any_order(coco.texts) if protocol.draws else [each[0] for each in coco.texts]
        prompts = first_prompts(texts, wanted, coco.folder)
    else:
        prompts = held_out_prompts(wanted or 0)
    return EvaluationInputs(name, protocol, prompts, load_reference(protocol, coco, side))


def load_inputs_of_images(
    name: str, side: int, num_images: int, prompt_file: Path | None, data: Path | None
) -> EvaluationInputs:
    """Return the real images of a protocol, and the prompts of a folder's images if given.

    Raises:
        UserError: if the protocol cannot be used, or there is not one prompt an image.
    """
    protocol = find_protocol(name)
    if name == "bundled" and side != FRAME:
        raise UserError(
            f"protocol 'bundled' measures images of {FRAME} x {FRAME} pixels, not {side} x {side}"
        )
    prompts = gather_prompts([], prompt_file) if prompt_file else []
    if prompts and len(prompts) != num_images:
        raise UserError(
            f"{prompt_file} holds {len(prompts)} prompts for {num_images} images; it takes one "
            "line an image, in the order of their names"
        )
    reference = load_reference(protocol, find_coco(name, data), side)
    protocol = replace(protocol, prompts="prompts of the user's")  # described as such
    return EvaluationInputs(name, protocol, prompts, reference)


def first_prompts(prompts: list[str], wanted: int | None, source: Path) -> list[str]:
    """Return the first `wanted` prompts, or all.

    Raises:
        UserError: if there are fewer.
    """
    if wanted is not None and wanted > len(prompts):
        raise UserError(
            f"--num-prompts is {wanted}, and {source} holds {len(prompts)} prompts; leave it out, "
            "or use fewer"
        )
    return prompts[:wanted]


def held_out_prompts(num: int, seed: int = PROMPT_SEED) -> list[str]:
    """Return captions of scenes that no training set holds; other seeds give other captions."""
    rngs = (np.random.default_rng([seed, i]) for i in range(num))
    return [describe(sample_scene(rng), rng) for rng in rngs]


def in_any_order(captions: Sequence[Sequence[str]]) -> list[str]:
    """Return the captions of all images, shuffled with a fixed seed.

    >>> sorted(in_any_order([("a cat", "a dog"), ("a hat",)]))
    ['a cat', 'a dog', 'a hat']
    """
    everything = [text for texts in captions for text in texts]
    order = np.random.default_rng(PROMPT_SEED).permutation(len(everything))
    return [everything[i] for i in order]


def find_coco(name: str, data: Path | None) -> ImageFiles | None:
    """Return the images and captions of COCO that a protocol takes from the folder `data`.

    Raises:
        UserError: if the protocol lacks the folder or takes none, or captions or images are not
            there.
    """
    part = PROTOCOLS[name].captions
    if not part:
        if data:
            raise UserError(f"protocol {name!r} takes no --data; leave it out")
        return None
    if data is None:
        raise UserError(
            f"protocol {name!r} needs --data FOLDER with COCO's annotations/captions_{part}.json "
            f"and {part}/; both are at cocodataset.org"
        )
    for path in captions_files(data):
        if path.stem == f"captions_{part}":
            coco = read_coco(path)
            if coco.left_out:
                raise SampleErrors(coco.left_out, f"protocol {name!r} needs all images of {path}")
            return coco
    raise UserError(
        f"{data} has no annotations/captions_{part}.json; download it from cocodataset.org"
    )


def load_reference(protocol: Protocol, coco: ImageFiles | None, side: int) -> Reference | None:
    """Return the real images of a protocol: COCO's middle squares, or renderings."""
    if coco:
        side = protocol.side or side
        description = protocol.reference.format(num=len(coco.files))
        paths = [coco.folder / file for file in coco.files]
        return Reference(f"{coco.identity} {side}", description, lambda: squares(paths, side))
    if protocol.reference:
        return Reference(f"{NUM_REFERENCES} renderings", protocol.reference, renderings)
    return None


def renderings() -> Iterator[Images]:
    """Yield real renderings of the bundled world, of scenes that no training set holds."""
    for numbers in batches(NUM_REFERENCES):
        rngs = (np.random.default_rng([REFERENCE_SEED, i]) for i in numbers)
        yield np.stack([render(sample_scene(rng)) for rng in rngs])


def squares(paths: Sequence[Path], side: int) -> Iterator[Images]:
    """Yield the middle squares of COCO's images.

    Raises:
        UserError: naming an image that cannot be read.
    """
    for numbers in batches(len(paths)):
        yield np.stack([read_image(paths[i], side, "reference image") for i in numbers])

"""Step 1: images on disk, a folder of PNGs for each model with its latents beside them."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save

from fewstep.console import Steps, TaskProgress
from fewstep.data.files import is_image
from fewstep.data.images import decode, open_image
from fewstep.errors import UserError
from fewstep.evaluation.models import EvaluatedModel
from fewstep.files import write_file, writing
from fewstep.images import Images, png
from fewstep.models.prompts import warn_of_cut
from fewstep.student.generate import ImageSampler
from fewstep.student.seeds import image_generators, numbered_generators

BATCH = 50


@dataclass(frozen=True)
class Samples:
    """Images uint8 [n, H, W, 3] and their latents; a folder of images has none."""

    images: Images
    latents: NDArray[np.float32] | None = None


def batches(num: int) -> list[range]:
    """Return the numbers of `num` images in batches: what is generated and stored at once."""
    return [range(first, min(first + BATCH, num)) for first in range(0, num, BATCH)]


@dataclass(frozen=True)
class SampleCache:
    """Every model's images of some prompts, generated once; image i starts from noise (seed, i).

    With `counts_up` it is that of seed + i alone, which `fewstep sample` makes again.

    Batches are always the same, so that several processes can share them and an interrupted
    evaluation continues. With `side` the images are stored resized.
    """

    models: Sequence[EvaluatedModel]
    folder: Path
    prompts: Sequence[str]
    resolution: int
    seed: int = 0
    side: int | None = None
    counts_up: bool = False

    @property
    def batches(self) -> list[range]:
        """The numbers of the images, in batches."""
        return batches(len(self.prompts))

    def generators(self, numbers: range) -> Sequence[torch.Generator]:
        """Return the generators of some images' noise."""
        if self.counts_up:
            return image_generators(self.seed + numbers.start, len(numbers))
        return numbered_generators(self.seed, numbers)

    def model_folder(self, model: EvaluatedModel) -> Path:
        """Return a model's folder, named by all that its images depend on but the prompts."""
        counts = ["counts up"] if self.counts_up else []
        key = repr([model.identity, self.resolution, self.seed, self.side, *counts])
        digest = hashlib.sha256(key.encode()).hexdigest()[:12]
        return self.folder / f"{model.method}-{model.steps}-steps-{digest}"

    def is_stored(self, model: EvaluatedModel, numbers: range) -> bool:
        """Return whether a batch is on disk, of these prompts."""
        path = self._latents(model, numbers)
        if not path.exists():
            return False
        with safe_open(path, "pt") as file:
            return file.metadata()["prompts"] == self._prompts_digest(numbers)

    def missing(self) -> tuple[int, int]:
        """Return how many images are not stored yet, and the NFE that they take."""
        num, nfe = 0, 0
        for model in self.models:
            of_model = sum(len(n) for n in self.batches if not self.is_stored(model, n))
            num, nfe = num + of_model, nfe + of_model * model.nfe
        return num, nfe

    def bytes_of(self, num_images: int) -> int:
        """Return an upper bound of the space that images and latents take."""
        latents = 16 * (self.resolution // 4) ** 2  # the largest that a VAE makes
        return max(20_000_000, num_images * (3 * (self.side or self.resolution) ** 2 + latents))

    def write_prompts(self) -> None:
        """Write the prompts beside the images, one a line."""
        lines = (" ".join(prompt.split()) for prompt in self.prompts)
        write_file(self.folder / "prompts.txt", "\n".join(lines) + "\n")

    def generate(self, sampler: ImageSampler, numbers: range) -> Samples:
        """Return a batch from a model's sampler."""
        prompts = self.prompts[numbers.start : numbers.stop]
        generators = self.generators(numbers)
        latents = sampler.latents(prompts, generators, self.resolution, batch_size=BATCH)
        return Samples(sampler.decode(latents, BATCH).numpy(), latents.cpu().numpy())

    def write(self, model: EvaluatedModel, numbers: range, samples: Samples) -> None:
        """Store a batch; the latents come last and mark it as stored."""
        path = self._latents(model, numbers)
        with writing(path):
            path.unlink(missing_ok=True)
        for number, image in zip(numbers, samples.images, strict=True):
            image = Image.fromarray(image)
            image = middle_square(image, self.side) if self.side else image
            write_file(path.with_name(f"{number:06d}.png"), png(image, fast=True))
        latents = torch.from_numpy(samples.latents).contiguous()
        write_file(path, save({"latents": latents}, {"prompts": self._prompts_digest(numbers)}))

    def read(self, model: EvaluatedModel, numbers: range) -> Samples:
        """Return a batch that is stored."""
        folder = self.model_folder(model)
        images = [np.asarray(Image.open(folder / f"{number:06d}.png")) for number in numbers]
        latents = load_file(self._latents(model, numbers))["latents"].numpy()
        return Samples(np.stack(images), latents)

    def all_images(self, model: EvaluatedModel) -> Images:
        """Return all of a model's images, which are stored."""
        return np.concatenate([self.read(model, numbers).images for numbers in self.batches])

    def _latents(self, model: EvaluatedModel, numbers: range) -> Path:
        return self.model_folder(model) / f"latents-{numbers.start:06d}.safetensors"

    def _prompts_digest(self, numbers: range) -> str:
        prompts = list(self.prompts[numbers.start : numbers.stop])
        return hashlib.sha256(repr(prompts).encode()).hexdigest()


def generate_images(samples: SampleCache, batches: Sequence[range]) -> Steps[None]:
    """Generate and store what is missing of these batches; progress counts NFE.

    Raises:
        UserError: naming a model whose latents are not finite.
    """
    done, total = 0, sum(model.nfe for model in samples.models) * sum(map(len, batches))
    for model in samples.models:
        sampler = None
        for numbers in batches:
            if not samples.is_stored(model, numbers):
                try:
                    if sampler is None:
                        sampler = model.sampler()
                        warn_of_cut(sampler.family, samples.prompts)
                    samples.write(model, numbers, samples.generate(sampler, numbers))
                except UserError as error:
                    raise UserError(f"{model} cannot be generated: {error}") from error
            done += model.nfe * len(numbers)
            yield TaskProgress("generating, NFE", done, total, str(model))


@dataclass(frozen=True)
class ImageFolders:
    """Folders of images from anywhere, read in batches; with `side` they are resized."""

    files: Mapping[EvaluatedModel, Sequence[Path]]
    resolution: int
    side: int | None = None

    @classmethod
    def open(cls, folders: Sequence[Path]) -> "ImageFolders":
        """Find the images of each folder, 2.png before 10.png.

        Raises:
            UserError: if a folder holds none, one cannot be read, or sizes or numbers differ.
        """
        files: dict[EvaluatedModel, Sequence[Path]] = {}
        for folder in folders:
            found = sorted(filter(is_image, folder.glob("*")), key=_in_numbers)
            if not found:
                raise UserError(f"{folder} holds no images")
            source = str(folder)
            files[EvaluatedModel(source, "images", 0, 0, settings=source)] = found
        if len({len(found) for found in files.values()}) > 1:
            counts = ", ".join(f"{model} holds {len(found)}" for model, found in files.items())
            raise UserError(f"the folders differ in their number of images: {counts}")
        sizes = {_size(path): path for found in files.values() for path in found}
        if len(sizes) > 1:
            examples = " and ".join(f"{p} is {w} x {h}" for (w, h), p in list(sizes.items())[:2])
            raise UserError(f"the images differ in size: {examples}; resize them first")
        return cls(files, min(next(iter(sizes))))

    @property
    def models(self) -> list[EvaluatedModel]:
        """One entry a folder, in the order in which they were named."""
        return list(self.files)

    @property
    def num_images(self) -> int:
        """How many images each folder holds."""
        return len(self.files[self.models[0]])

    @property
    def batches(self) -> list[range]:
        """The numbers of a folder's images, in batches."""
        return batches(self.num_images)

    def read(self, model: EvaluatedModel, numbers: range) -> Samples:
        """Return a batch of a folder's images.

        Raises:
            UserError: naming a file that cannot be read.
        """
        paths = self.files[model][numbers.start : numbers.stop]
        return Samples(np.stack([read_image(path, self.side) for path in paths]))


def read_image(path: Path, side: int | None = None, noun: str = "image") -> NDArray[np.uint8]:
    """Return an image, or its middle square at this side.

    Raises:
        UserError: naming the image, if it cannot be read.
    """
    try:
        image = decode(path.read_bytes())
    except (OSError, UserError) as error:
        raise UserError(f"the {noun} {path} cannot be read: {error}") from error
    return np.asarray(middle_square(image, side) if side else image)


def middle_square(image: Image.Image, side: int) -> Image.Image:
    """Return the square in the middle of an image, resized (Lanczos)."""
    short = min(image.size)
    left, top = (image.width - short) / 2, (image.height - short) / 2
    box = (left, top, left + short, top + short)
    return image.resize((side, side), Image.Resampling.LANCZOS, box=box)


def _size(path: Path) -> tuple[int, int]:
    """Return an image's width and height, upright, from its header."""
    try:
        image = open_image(path.read_bytes())
        is_turned = image.getexif().get(274, 1) > 4
        return (image.height, image.width) if is_turned else image.size
    except (OSError, UserError) as error:
        raise UserError(f"the image {path} cannot be read: {error}") from error


def _in_numbers(path: Path) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]

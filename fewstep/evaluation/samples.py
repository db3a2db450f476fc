"""Images on disk: a folder of PNGs for each evaluated model, with its latents beside them."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.progress import Progress
from safetensors import safe_open
from safetensors.torch import load_file, save

from fewstep.data.images import decode
from fewstep.errors import UserError
from fewstep.evaluation.models import EvaluatedModel
from fewstep.files import write_file
from fewstep.images import Images

BATCH = 50
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


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
    """The images of some prompts, generated once a model; image i starts from noise (seed, i).

    Batches are always the same, so that several processes can share them and an interrupted
    evaluation continues. With `side` the images are stored resized.
    """

    folder: Path
    prompts: Sequence[str]
    resolution: int
    seed: int = 0
    side: int | None = None

    @property
    def batches(self) -> list[range]:
        return batches(len(self.prompts))

    def model_folder(self, model: EvaluatedModel) -> Path:
        """Return the folder of a model, named by all that its images depend on but the prompts."""
        key = repr([model.identity, self.resolution, self.seed, self.side])
        digest = hashlib.sha256(key.encode()).hexdigest()[:12]
        return self.folder / f"{model.method}-{model.steps}-steps-{digest}"

    def missing(self, model: EvaluatedModel) -> list[range]:
        """Return the batches that are not on disk yet, or of other prompts."""
        return [numbers for numbers in self.batches if not self._is_stored(model, numbers)]

    def bytes_of(self, num_images: int) -> int:
        """Return an upper bound of the space that images and latents take."""
        side = self.side or self.resolution
        latents = 16 * (self.resolution // 4) ** 2  # the finest that there are
        return max(20_000_000, num_images * (3 * side**2 + latents))

    def write_prompts(self) -> None:
        """Write prompts.txt, one line an image, for others to measure the folders with."""
        write_file(self.folder / "prompts.txt", "\n".join(self.prompts) + "\n")

    def generate(self, model: EvaluatedModel, wanted: Sequence[range]) -> Iterator[int]:
        """Generate and store those batches that are missing; yield the size of each of `wanted`.

        Raises:
            UserError: naming the model, if its latents are not finite.
        """
        sampler = None
        for numbers in wanted:
            if not self._is_stored(model, numbers):
                sampler = sampler or model.sampler()
                prompts = self.prompts[numbers.start : numbers.stop]
                try:
                    latents = sampler.latents(prompts, self.seed, self.resolution, numbers, BATCH)
                except UserError as error:
                    raise UserError(f"{model} cannot be generated: {error}") from error
                images = sampler.decode(latents, BATCH).numpy()
                self.write(model, numbers, Samples(images, latents.cpu().numpy()))
            yield len(numbers)

    def write(self, model: EvaluatedModel, numbers: range, samples: Samples) -> None:
        """Store a batch; the latents come last and mark it as stored."""
        folder = self.model_folder(model)
        folder.mkdir(parents=True, exist_ok=True)
        self._latents(model, numbers).unlink(missing_ok=True)
        for number, image in zip(numbers, resized(samples.images, self.side), strict=True):
            Image.fromarray(image).save(folder / f"{number:06d}.png", compress_level=1)
        latents = {"latents": torch.from_numpy(samples.latents).contiguous()}
        write_file(self._latents(model, numbers), save(latents, {"prompts": self._key(numbers)}))

    def read(self, model: EvaluatedModel, numbers: range) -> Samples:
        """Return a batch that is stored."""
        folder = self.model_folder(model)
        images = [np.asarray(Image.open(folder / f"{number:06d}.png")) for number in numbers]
        latents = load_file(self._latents(model, numbers))["latents"].numpy()
        return Samples(np.stack(images), latents)

    def all_of(self, model: EvaluatedModel) -> Samples:
        """Return all of a model's images, which are stored."""
        parts = [self.read(model, numbers) for numbers in self.batches]
        images, latents = ([getattr(p, name) for p in parts] for name in ("images", "latents"))
        return Samples(np.concatenate(images), np.concatenate(latents))

    def _latents(self, model: EvaluatedModel, numbers: range) -> Path:
        return self.model_folder(model) / f"latents-{numbers.start:06d}.safetensors"

    def _is_stored(self, model: EvaluatedModel, numbers: range) -> bool:
        path = self._latents(model, numbers)
        if not path.exists():
            return False
        with safe_open(path, "pt") as file:
            return file.metadata()["prompts"] == self._key(numbers)

    def _key(self, numbers: range) -> str:
        prompts = list(self.prompts[numbers.start : numbers.stop])
        return hashlib.sha256(repr(prompts).encode()).hexdigest()


@dataclass(frozen=True)
class ImageFolders:
    """Folders of images from anywhere, read in batches; with `side` they are resized."""

    files: Mapping[EvaluatedModel, Sequence[Path]]
    resolution: int
    side: int | None = None

    @classmethod
    def open(cls, folders: Sequence[Path]) -> "ImageFolders":
        """Find the images of each folder, in the order of their names and of numbers in these.

        Raises:
            UserError: if a folder holds none, or they differ in size or in number.
        """
        names = [folder.name for folder in folders]
        files: dict[EvaluatedModel, Sequence[Path]] = {}
        sizes: dict[tuple[int, int], Path] = {}
        for folder in folders:
            if not folder.is_dir():
                raise UserError(f"--images {folder} is not a folder")
            found = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
            if not found:
                raise UserError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)})")
            source = folder.name if names.count(folder.name) == 1 else str(folder)
            model = EvaluatedModel(source, "images", steps=0, nfe=0, settings=str(folder))
            files[model] = sorted(found, key=in_numbers)
            for path in found:
                sizes.setdefault(size_of(path), path)
        if len(sizes) > 1:
            (first, one), (second, other), *_ = sizes.items()
            raise UserError(
                f"images differ in size: {one} is {first[0]} x {first[1]}, {other} {second[0]} x "
                f"{second[1]}; resize them first"
            )
        if len({len(paths) for paths in files.values()}) > 1:
            counts = ", ".join(f"{model} {len(paths)}" for model, paths in files.items())
            raise UserError(f"folders differ in their number of images: {counts}")
        return cls(files, min(next(iter(sizes))))

    @property
    def models(self) -> list[EvaluatedModel]:
        return list(self.files)

    @property
    def num_images(self) -> int:
        return len(next(iter(self.files.values())))

    @property
    def batches(self) -> list[range]:
        return batches(self.num_images)

    def read(self, model: EvaluatedModel, numbers: range) -> Samples:
        """Return a batch of a folder's images.

        Raises:
            UserError: naming a file that cannot be read.
        """
        paths = self.files[model][numbers.start : numbers.stop]
        return Samples(np.stack([read_image(path, self.side) for path in paths]))


def read_image(path: Path, side: int | None = None, noun: str = "image") -> NDArray[np.uint8]:
    """Return an image, or its middle square with this side (Lanczos).

    Raises:
        UserError: naming the image, if it cannot be read.
    """
    try:
        image = decode(path.read_bytes())
    except (OSError, UserError) as error:
        raise UserError(f"the {noun} {path} cannot be read: {error}") from error
    if side is not None:
        short = min(image.size)
        left, top = (image.width - short) / 2, (image.height - short) / 2
        box = (left, top, left + short, top + short)
        image = image.resize((side, side), Image.Resampling.LANCZOS, box=box)
    return np.asarray(image)


def size_of(path: Path) -> tuple[int, int]:
    """Return an image's width and height from its header.

    Raises:
        UserError: if it is not an image.
    """
    try:
        with Image.open(path) as image:
            return image.size
    except OSError as error:
        raise UserError(f"the image {path} cannot be read: {error}") from error


def in_numbers(path: Path) -> list[str | int]:
    """Return a key that sorts 2.png before 10.png."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def resized(images: Images, side: int | None) -> Images:
    """Return images with sides of this length (Lanczos), or as they are."""
    if side is None or images.shape[1:3] == (side, side):
        return images
    size = (side, side)
    return np.stack([
        np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
        for image in images
    ])  # fmt: skip


def generate_images(
    models: Sequence[EvaluatedModel],
    samples: SampleCache,
    batches: Sequence[range],
    bar: Progress,
) -> None:
    """Step 1: store these batches of every model; the bar counts network evaluations."""
    total = sum(model.nfe for model in models) * sum(map(len, batches))
    task = bar.add_task("generating, NFE", total=total, note="")
    for model in models:
        bar.update(task, note=str(model))
        for num_images in samples.generate(model, batches):
            bar.advance(task, model.nfe * num_images)

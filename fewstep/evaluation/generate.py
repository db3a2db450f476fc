"""Images for measuring, made once: a contestant's images are kept on disk by what made them."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.progress import Progress
from safetensors.torch import load_file, save
from torch import Tensor

from fewstep.errors import UserError
from fewstep.evaluation.models import Contestant
from fewstep.files import write_file
from fewstep.student.generate import ImageSampler

BATCH = 50


@dataclass(frozen=True)
class Made:
    """Images uint8 [n, H, W, 3] and their latents."""

    images: NDArray[np.uint8]
    latents: NDArray[np.float32]

    @classmethod
    def read(cls, path: Path) -> Self:
        tensors = load_file(path)
        return cls(tensors["images"].numpy(), tensors["latents"].numpy())


@dataclass(frozen=True)
class Gallery:
    """The images of some prompts; image i starts from the noise of (seed, i) whoever generates.

    They are generated and stored in batches of the same `BATCH` numbers, so that several processes
    can share the work and an interrupted one continues. With `side` they are stored resized.
    """

    folder: Path
    prompts: Sequence[str]
    resolution: int
    seed: int = 0
    side: int | None = None

    @property
    def starts(self) -> range:
        """The numbers that batches begin with."""
        return range(0, len(self.prompts), BATCH)

    def numbers(self, first: int) -> range:
        return range(first, min(first + BATCH, len(self.prompts)))

    def of(
        self, contestant: Contestant, advance: Callable[[int], None] = lambda count: None
    ) -> Made:
        """Return the contestant's images, all at once."""
        batches = list(self.batches(contestant, advance=advance))
        return Made(*(np.concatenate([getattr(b, n) for b in batches])
                      for n in ("images", "latents")))  # fmt: skip

    def batches(
        self,
        contestant: Contestant,
        starts: Iterable[int] | None = None,
        advance: Callable[[int], None] = lambda count: None,
    ) -> Iterator[Made]:
        """Yield the contestant's batches, generating those that are not on disk yet.

        Raises:
            UserError: naming the contestant, if its latents are not finite.
        """
        sampler = None
        for first in self.starts if starts is None else starts:
            path = self.path(contestant, first)
            if not path.exists():
                try:
                    sampler = sampler or contestant.sampler()
                    generated = self.generate(sampler, first)
                except UserError as error:
                    who = f"{contestant.source} in {contestant.steps} steps"
                    raise UserError(f"{who} cannot be generated: {error}") from error
                write_file(path, save(generated))
            yield Made.read(path)
            advance(len(self.numbers(first)))

    def lacking(self, contestant: Contestant) -> int:
        """Return how many of the contestant's images are not on disk yet."""
        missing = (first for first in self.starts if not self.path(contestant, first).exists())
        return sum(len(self.numbers(first)) for first in missing)

    def path(self, contestant: Contestant, first: int) -> Path:
        """Return the file of a batch, named by everything that its images depend on."""
        key: list[object] = [contestant.identity, self.resolution, self.seed]
        key += [self.side] if self.side else []
        prompts = [self.prompts[i] for i in self.numbers(first)]
        name = hashlib.sha256(repr([key, first, prompts]).encode()).hexdigest()[:24]
        return self.folder / f"{name}.safetensors"

    def generate(self, sampler: ImageSampler, first: int) -> dict[str, Tensor]:
        """Return a batch as it is kept."""
        numbers = self.numbers(first)
        prompts = [self.prompts[i] for i in numbers]
        latents = sampler.latents(prompts, self.seed, self.resolution, numbers, BATCH)
        images = sampler.decode(latents, BATCH)
        return {
            "images": resized(images, self.side).contiguous(),
            "latents": latents.cpu().contiguous(),
        }


def resized(images: Tensor, side: int | None) -> Tensor:
    """Return images uint8 [n, H, W, 3] with sides of this length, or as they are."""
    if side is None or tuple(images.shape[1:3]) == (side, side):
        return images
    small = (
        Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS)
        for image in images.numpy()
    )
    return torch.from_numpy(np.stack([np.asarray(image) for image in small]))


def generate_all(
    contestants: Sequence[Contestant], gallery: Gallery, bar: Progress
) -> dict[Contestant, Made]:
    """Return every contestant's images; the bar counts network calls, as they take the time."""
    calls = sum(contestant.calls for contestant in contestants) * len(gallery.prompts)
    task = bar.add_task("generating, network calls", total=calls, note="")
    made = {}
    for contestant in contestants:
        bar.update(task, note=f"{contestant.source}, {contestant.steps} steps")

        def advance(images: int, each: int = contestant.calls) -> None:
            bar.advance(task, images * each)

        made[contestant] = gallery.of(contestant, advance)
    return made

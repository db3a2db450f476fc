"""Pictures for measuring, made once: a contestant's pictures are kept on disk by what made them."""

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
from fewstep.student.generate import Painter

BATCH = 50


@dataclass(frozen=True)
class Made:
    """Pictures uint8 [n, H, W, 3] and their latents."""

    pictures: NDArray[np.uint8]
    latents: NDArray[np.float32]

    @classmethod
    def read(cls, path: Path) -> Self:
        tensors = load_file(path)
        return cls(tensors["pictures"].numpy(), tensors["latents"].numpy())


@dataclass(frozen=True)
class Gallery:
    """The pictures of some prompts; picture i starts from the noise of (seed, i) whoever paints.

    They are painted and stored in batches of the same `BATCH` numbers, so that several processes
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
        """Return the contestant's pictures, all at once."""
        batches = list(self.batches(contestant, advance=advance))
        return Made(*(np.concatenate([getattr(b, n) for b in batches])
                      for n in ("pictures", "latents")))  # fmt: skip

    def batches(
        self,
        contestant: Contestant,
        starts: Iterable[int] | None = None,
        advance: Callable[[int], None] = lambda count: None,
    ) -> Iterator[Made]:
        """Yield the contestant's batches, painting those that are not on disk yet.

        Raises:
            UserError: naming the contestant, if its latents are not finite.
        """
        painter = None
        for first in self.starts if starts is None else starts:
            path = self.path(contestant, first)
            if not path.exists():
                try:
                    painter = painter or contestant.painter()
                    painted = self.paint(painter, first)
                except UserError as error:
                    who = f"{contestant.source} in {contestant.steps} steps"
                    raise UserError(f"{who} cannot be painted: {error}") from error
                write_file(path, save(painted))
            yield Made.read(path)
            advance(len(self.numbers(first)))

    def lacking(self, contestant: Contestant) -> int:
        """Return how many of the contestant's pictures are not on disk yet."""
        missing = (first for first in self.starts if not self.path(contestant, first).exists())
        return sum(len(self.numbers(first)) for first in missing)

    def path(self, contestant: Contestant, first: int) -> Path:
        """Return the file of a batch, named by everything that its pictures depend on."""
        key: list[object] = [contestant.identity, self.resolution, self.seed]
        key += [self.side] if self.side else []
        prompts = [self.prompts[i] for i in self.numbers(first)]
        name = hashlib.sha256(repr([key, first, prompts]).encode()).hexdigest()[:24]
        return self.folder / f"{name}.safetensors"

    def paint(self, painter: Painter, first: int) -> dict[str, Tensor]:
        """Return a batch as it is kept."""
        numbers = self.numbers(first)
        prompts = [self.prompts[i] for i in numbers]
        latents = painter.latents(prompts, self.seed, self.resolution, numbers, BATCH)
        pictures = painter.decode(latents, BATCH)
        return {
            "pictures": resized(pictures, self.side).contiguous(),
            "latents": latents.cpu().contiguous(),
        }


def resized(pictures: Tensor, side: int | None) -> Tensor:
    """Return pictures uint8 [n, H, W, 3] with sides of this length, or as they are."""
    if side is None or tuple(pictures.shape[1:3]) == (side, side):
        return pictures
    small = (
        Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS)
        for picture in pictures.numpy()
    )
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in small]))


def paint_all(
    contestants: Sequence[Contestant], gallery: Gallery, bar: Progress
) -> dict[Contestant, Made]:
    """Return every contestant's pictures; the bar counts network calls, as they take the time."""
    calls = sum(contestant.calls for contestant in contestants) * len(gallery.prompts)
    task = bar.add_task("painting, network calls", total=calls, note="")
    made = {}
    for contestant in contestants:
        bar.update(task, note=f"{contestant.source}, {contestant.steps} steps")

        def advance(pictures: int, each: int = contestant.calls) -> None:
            bar.advance(task, pictures * each)

        made[contestant] = gallery.of(contestant, advance)
    return made

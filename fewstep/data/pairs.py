"""Numbered pairs of an image, ready for the autoencoder, and its captions."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from typing import Protocol

import numpy as np
from torch import Tensor

from fewstep.data.errors import ImageError
from fewstep.data.framing import Framing, as_tensor
from fewstep.data.images import decode
from fewstep.data.source import Captioned, Source, digest

STREAM = 1_000_081
"""Keeps these scenes apart from those that the teacher learns from and students are judged by."""


class Pairs(Captioned, Protocol):
    """Captions with images."""

    def image(self, number: int) -> Tensor:
        """Return the image as [3, height, width] in [0, 1], or raise a ImageError."""
        ...


@dataclass(frozen=True)
class BundledPairs:
    """Scenes of the bundled world, drawn on the spot; pair i is a function of (seed, i)."""

    num_pairs: int
    resolution: int
    seed: int = 0

    @property
    def identity(self) -> str:
        return f"bundled scenes {STREAM} {self.num_pairs} {self.resolution} {self.seed}"

    @property
    def parts(self) -> Sequence[int]:
        return (self.num_pairs,)

    def __len__(self) -> int:
        return self.num_pairs

    def name(self, number: int) -> str:
        return f"scene {number}"

    def captions(self, number: int) -> tuple[str, ...]:
        from fewstep.world.captions import describe

        scene, rng = self._scene(number)
        return (describe(scene, rng),)

    def image(self, number: int) -> Tensor:
        from fewstep.world.scenes import render

        return as_tensor(render(self._scene(number)[0], self.resolution))

    def _scene(self, number: int):
        from fewstep.world.scenes import sample_scene

        rng = np.random.default_rng([STREAM, self.seed, number])
        return sample_scene(rng), rng


@dataclass(frozen=True)
class ImagePairs:
    """The images of a source, cut to their frames."""

    source: Source
    framing: Framing
    all_captions: bool = False
    identity: str = field(init=False)

    def __post_init__(self) -> None:
        frames = f"{astuple(self.framing)} all captions: {self.all_captions}"
        object.__setattr__(self, "identity", digest([self.source.identity, frames]))

    @property
    def parts(self) -> Sequence[int]:
        return self.source.parts

    def __len__(self) -> int:
        return len(self.source)

    def name(self, number: int) -> str:
        return self.source.name(number)

    def captions(self, number: int) -> tuple[str, ...]:
        captions = self.source.captions(number)
        return captions if self.all_captions else captions[:1]

    def image(self, number: int) -> Tensor:
        """Return the image in its frame.

        Raises:
            ImageError: if it is broken or too small, naming it.
        """
        try:
            return self.framing.frame(decode(self.source.read(number)), number)
        except ImageError as error:
            raise ImageError(f"{self.name(number)}: {error}") from error

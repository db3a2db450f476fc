"""A distilled model, ready to paint, at the timesteps of its contract."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from PIL import Image
from torch import Tensor, nn

from fewstep.models.base import ModelFamily
from fewstep.sampling.artefact import load_base, read_artefact, student_network
from fewstep.sampling.contract import Contract
from fewstep.sampling.painter import Painter, student_painter


@dataclass(frozen=True)
class FewStepPipeline:
    """A distilled model, ready to paint: `FewStepPipeline.from_pretrained(path)("a prompt")`."""

    family: ModelFamily
    contract: Contract
    weights: Mapping[str, Tensor]

    @classmethod
    def from_pretrained(
        cls,
        artefact: str | Path,
        *,
        base: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Load an artefact folder and the base model that it names, or `base` in its place.

        Raises:
            ArtefactError: if a file is missing, or the base is not the one that was distilled.
        """
        contract, weights = read_artefact(Path(artefact))
        family = load_base(contract, artefact, base, device=device, dtype=dtype)
        return cls(family, contract, weights)

    def __call__(
        self,
        prompts: str | Sequence[str],
        *,
        seed: int = 0,
        num_steps: int | None = None,
        resolution: int | None = None,
    ) -> list[Image.Image]:
        """Return one picture a prompt; the timesteps are those of the contract.

        Raises:
            ValueError: if the student does not know `num_steps`.
        """
        prompts = [prompts] if isinstance(prompts, str) else prompts
        return self.painter(num_steps).paint(prompts, seed, resolution or self.resolution)

    @property
    def resolution(self) -> int:
        """The side in pixels of the pictures that the student was trained on."""
        return self.contract.data["resolution"]

    @cached_property
    def network(self) -> nn.Module:
        """The student's network, made once for all numbers of steps."""
        return student_network(self.family, self.contract, self.weights)

    def painter(self, num_steps: int | None = None) -> Painter:
        self.contract.timesteps(num_steps)  # before the work
        return student_painter(self.family, self.contract, self.network, num_steps)

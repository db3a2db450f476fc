"""Randomness as a function of its key: no state to store, so that resuming is exact."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from fewstep.types import Latents, PerSample, Timesteps


def generator(*key: int | str) -> torch.Generator:
    """Return a fresh CPU generator that is a function of `key` alone."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


@dataclass(frozen=True)
class Draw:
    """The randomness of one batch, with one generator a sample.

    A sample's noise depends on its own key only: not on the batch, the process or the device that
    it is computed in. `progress` in [0, 1] is how far training has come.
    """

    generators: Sequence[torch.Generator]
    device: torch.device | str = "cpu"
    progress: float = 0.0

    @classmethod
    def keyed(
        cls,
        seed: int,
        samples: Iterable[int],
        device: torch.device | str = "cpu",
        progress: float = 0.0,
        *,
        purpose: str = "train",
    ) -> "Draw":
        """Key each generator by (seed, purpose, number of the sample in the whole run).

        The purpose keeps the noise of sampling apart from that of training.
        """
        generators = tuple(generator(seed, purpose, int(sample)) for sample in samples)
        return cls(generators, device, progress)

    def noise_like(self, x: Latents) -> Latents:
        """Draw standard normal noise of the shape of `x`, which has one row a generator."""
        noise = [
            torch.randn(x.shape[1:], generator=generator, device=generator.device)
            for generator in self.generators
        ]
        return torch.stack(noise).to(self.device, x.dtype)

    def uniform(self) -> PerSample:
        """Draw one number in [0, 1) a sample."""
        numbers = [torch.rand((), generator=generator) for generator in self.generators]
        return torch.stack(numbers).to(self.device)

    def neighbours(self, timesteps: Sequence[int]) -> tuple[Timesteps, Timesteps]:
        """Draw one of the rising `timesteps` above the lowest, uniformly, and the one below it."""
        grid = torch.tensor(timesteps, device=self.device)
        above = 1 + (self.uniform() * (len(timesteps) - 1)).long()
        return grid[above], grid[above - 1]

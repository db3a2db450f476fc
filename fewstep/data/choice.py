"""What chance decides about a sample, the same whether its latents come from the cache or not."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.diffusion.random import generator


@dataclass(frozen=True)
class Choice:
    """One sample's caption, whether it is dropped, its view (1: mirrored), and its noise to come.

    A function of (seed, number of the sample in the whole run).
    """

    is_dropped: bool
    caption: int
    view: int
    noise: torch.Generator

    @classmethod
    def of(
        cls, seed: int, sample: int, num_captions: int, num_views: int, caption_dropout: float
    ) -> "Choice":
        noise = generator(seed, "x_0", sample)
        dropped, caption, view = torch.rand(3, generator=noise).tolist()
        return cls(
            dropped < caption_dropout, int(caption * num_captions), int(view * num_views), noise
        )

    def x_0(self, mean: Tensor, std: Tensor) -> Tensor:
        """Draw the latents of an image from their posterior."""
        return mean + std * torch.randn(mean.shape, generator=self.noise)

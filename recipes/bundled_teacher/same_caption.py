"""Which scenes of a pool have the same caption."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class SameCaption:
    """The scenes that have each caption of a pool.

    `scenes` lists the pool's scenes caption by caption; for caption `which` of a scene,
    `first[scene, which]` and `count[scene, which]` are where those with the same words begin and
    how many they are.
    """

    scenes: Tensor
    first: Tensor
    count: Tensor

    @classmethod
    def of(cls, captions: Tensor) -> Self:
        """Group captions, as tokens [scene, which, length], by their words."""
        tokens = captions.flatten(0, 1).numpy()
        _, group, count = np.unique(tokens, axis=0, return_inverse=True, return_counts=True)
        group = group.ravel()
        scenes = np.argsort(group, kind="stable") // captions.shape[1]
        first = (np.cumsum(count) - count)[group].reshape(captions.shape[:2])
        counts = count[group].reshape(captions.shape[:2])
        return cls(*map(torch.from_numpy, (scenes, first, counts)))

    def draw(self, scenes: Tensor, which: Tensor, num: int, draw: torch.Generator) -> Tensor:
        """Draw `num` scenes, with replacement, for caption `which` of each scene: [batch, num]."""
        position = torch.rand(len(scenes), num, generator=draw, dtype=torch.float64)
        first, count = self.first[scenes, which][:, None], self.count[scenes, which][:, None]
        return self.scenes[first + (position * count).long()]

"""Pictures for measuring, made once: a contestant's pictures are kept on disk by what made them."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save

from fewstep.evaluation.intervals import Interval, mean
from fewstep.files import write_file
from fewstep.run.contestants import Contestant

BATCH = 50


@dataclass(frozen=True)
class Made:
    """Pictures uint8 [n, H, W, 3], their latents, and each batch's seconds a picture."""

    pictures: NDArray[np.uint8]
    latents: NDArray[np.float32]
    seconds: NDArray[np.float64]
    calls: int

    @property
    def seconds_per_image(self) -> Interval:
        """The mean over batches; of one batch alone, no more than its value is known."""
        alone = float(self.seconds.mean())
        return mean(self.seconds) if len(self.seconds) > 1 else Interval(alone, alone, alone, 1)


@dataclass(frozen=True)
class Gallery:
    """The pictures of some prompts; picture i starts from the noise of (seed, i) whoever paints."""

    folder: Path
    prompts: Sequence[str]
    resolution: int
    seed: int = 0

    def of(
        self, contestant: Contestant, advance: Callable[[int], None] = lambda count: None
    ) -> Made:
        """Return the contestant's pictures, painting those batches that are not on disk yet."""
        key = [contestant.identity, self.resolution, self.seed]
        painter = None
        batches = []
        for first in range(0, len(self.prompts), BATCH):
            chosen = range(first, min(first + BATCH, len(self.prompts)))
            prompts = [self.prompts[i] for i in chosen]
            name = hashlib.sha256(repr([key, first, prompts]).encode()).hexdigest()[:24]
            path = self.folder / f"{name}.safetensors"
            if not path.exists():
                painter = painter or contestant.painter()
                clock = time.perf_counter()
                latents = painter.latents(prompts, self.seed, self.resolution, chosen, BATCH)
                pictures = painter.decode(latents, BATCH)
                seconds = torch.tensor([(time.perf_counter() - clock) / len(chosen)])
                made = {"pictures": pictures.contiguous(), "latents": latents.cpu(),
                        "seconds": seconds,
                        "calls": torch.tensor(painter.calls)}  # fmt: skip
                write_file(path, save(made))
            batches.append(load_file(path))
            advance(len(chosen))
        whole = {k: torch.cat([b[k] for b in batches]).numpy()
                 for k in ("pictures", "latents", "seconds")}  # fmt: skip
        return Made(**whole, calls=int(batches[0]["calls"]))

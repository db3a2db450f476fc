"""Pictures for measuring, made once: a contestant's pictures are kept on disk by what made them."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from safetensors.torch import load_file, save

from fewstep.evaluation.intervals import Interval, mean_of_few
from fewstep.files import write_file
from fewstep.run.contestants import Contestant
from fewstep.sampling.painter import Painter

BATCH = 50
WARM_UP = 2
FEWEST_BATCHES = 5


@dataclass(frozen=True)
class Made:
    """Pictures uint8 [n, H, W, 3], their latents, and each batch's seconds a picture."""

    pictures: NDArray[np.uint8]
    latents: NDArray[np.float32]
    seconds: NDArray[np.float64]

    @property
    def seconds_per_image(self) -> Interval:
        """The mean over batches; of very few, no more than its value is known."""
        value, n = float(self.seconds.mean()), len(self.pictures)
        if len(self.seconds) < FEWEST_BATCHES:
            return Interval(value, value, value, n)
        return replace(mean_of_few(self.seconds), n=n)


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
                painter = painter or warmed_up(contestant, self.resolution)
                clock = time.perf_counter()
                latents = painter.latents(prompts, self.seed, self.resolution, chosen, BATCH)
                pictures = painter.decode(latents, BATCH)
                seconds = torch.tensor([(time.perf_counter() - clock) / len(chosen)])
                made = {"pictures": pictures.contiguous(), "latents": latents.cpu(),
                        "seconds": seconds}  # fmt: skip
                write_file(path, save(made))
            batches.append(load_file(path))
            advance(len(chosen))
        whole = {k: torch.cat([b[k] for b in batches]).numpy()
                 for k in ("pictures", "latents", "seconds")}  # fmt: skip
        return Made(**whole)


def warmed_up(contestant: Contestant, resolution: int) -> Painter:
    """Return its painter after a few pictures that nobody times: the first are always slower."""
    painter = contestant.painter()
    painter.decode(painter.latents([""] * WARM_UP, seed=0, resolution=resolution))
    return painter


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

"""Whether a step's time and memory depend on the size of the dataset: 1,000 to 100,000 pairs.

    python -m benchmarks.speed_data --threads 1 -o benchmarks/results/speed_data.json

Latents are noise, in a cache as `fewstep prepare` writes it; the default model is the tiny one, so
that reading has the largest possible share of the time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.speed_own import Fewstep
from benchmarks.speed_table import arguments, measure, serve
from benchmarks.speed_work import PROMPTS, Setting
from fewstep.data.base import Captioned
from fewstep.data.cache import open_cache
from fewstep.data.encode import fill_cache
from fewstep.diffusion.random import generator

DESIGNS = ("1,000 pairs", "10,000 pairs", "100,000 pairs")


@dataclass(frozen=True)
class NoisePairs(Captioned):
    """Captions without images."""

    num: int
    identity: str = "noise"

    def __len__(self) -> int:
        return self.num

    def name(self, number: int) -> str:
        return f"pair {number}"

    def captions(self, number: int) -> tuple[str, ...]:
        return (PROMPTS[number % len(PROMPTS)],)


def num_pairs(design: str) -> int:
    return int(design.split()[0].replace(",", ""))


def cache_of(setting: Setting, num: int) -> Path:
    return Path(setting.folder) / f"cache-{num}"


def write_caches(setting: Setting) -> None:
    """Fill a cache of each size with noise."""
    encode_prompts = setting.family().encode_prompts
    std = torch.full((1, *setting.latent_shape), 0.1)

    def encode(numbers: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        random = generator("speed", "pairs", numbers[0])
        for _ in numbers:
            yield torch.randn(std.shape, generator=random), std

    for num in map(num_pairs, DESIGNS):
        pairs = NoisePairs(num)
        for _ in fill_cache(cache_of(setting, num), pairs, encode, encode_prompts, 0.0):
            pass


def work(pipe: Connection, name: str, setting: Setting) -> None:
    """Train from a cache of this size."""
    setting.begin()
    design = Fewstep(setting, open_cache(cache_of(setting, num_pairs(name)), seed=0))
    serve(pipe, setting, name, design.step, {}, design.static_bytes)


if __name__ == "__main__":
    args = arguments(__doc__, DESIGNS, batch_sizes=[2], steps=20)
    path = measure(args, work, args.designs or DESIGNS, prepare=write_caches)
    print(f"wrote {path} and its plot")

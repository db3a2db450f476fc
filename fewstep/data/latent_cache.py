"""Latents and text embeddings, encoded once: after this, training needs one network only."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from fewstep.data.pairs import DataError, Pairs
from fewstep.diffusion.random import generator
from fewstep.files import write_file
from fewstep.methods.base import Batch
from fewstep.types import Conditioning, Latents

SHARD = 256  # pairs in a file
EncodePictures = Callable[[Tensor], tuple[Latents, Latents]]
EncodePrompts = Callable[[Sequence[str]], Conditioning]


@dataclass(frozen=True)
class LatentCache:
    """Mean and standard deviation of each picture's latents, and each distinct caption's text.

    The last row of `text` is the empty prompt's.
    """

    mean: Latents
    std: Latents
    caption: Tensor
    text: Conditioning
    seed: int
    caption_dropout: float = 0.0

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def uncond(self) -> Conditioning:
        """The empty prompt's conditioning, one row."""
        return {name: rows[-1:] for name, rows in self.text.items()}

    def batch_at(self, samples: Sequence[int], device: torch.device | str = "cpu") -> Batch:
        """Return the samples with these numbers in the whole run; it has no other state.

        Every epoch goes through all pairs in an order of its own. x_0 is drawn from its posterior,
        and a caption is dropped with probability `caption_dropout`.
        """
        rows, x_0, captions = [], [], []
        for sample in samples:
            epoch, place = divmod(sample, len(self))
            row = int(_order(self.seed, epoch, len(self))[place])
            noise = generator(self.seed, "x_0", sample)
            dropped = torch.rand((), generator=noise) < self.caption_dropout
            x_0.append(
                self.mean[row] + self.std[row] * torch.randn(self.mean[row].shape, generator=noise)
            )
            captions.append(-1 if dropped else int(self.caption[row]))
            rows.append(row)
        cond = {name: table[captions].to(device) for name, table in self.text.items()}
        return Batch(torch.stack(x_0).to(device), cond)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, length: int) -> Tensor:
    return torch.randperm(length, generator=generator(seed, "order", epoch))


def cache_key(pairs: Pairs, resolution: int, codec: str) -> str:
    """Return a name for the cache that changes with anything that its contents depend on."""
    parts = [pairs.identity, str(len(pairs)), str(resolution), codec]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def prepare(
    pairs: Pairs,
    encode_pictures: EncodePictures,
    encode_prompts: EncodePrompts,
    folder: Path,
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Encode every pair that the folder does not hold yet; interrupted, it continues.

    `advance` is told how many pairs are done after each shard.
    """
    for first in range(0, len(pairs), SHARD):
        path = folder / f"latents-{first:08d}.safetensors"
        numbers = range(first, min(first + SHARD, len(pairs)))
        if not path.exists():
            items = [pairs[i] for i in numbers]
            halves = encode_pictures(torch.stack([picture for picture, _ in items]))
            mean, std = (half.float().cpu().contiguous() for half in halves)
            if not (mean.isfinite().all() and std.isfinite().all()):
                raise DataError(
                    f"the latents of pairs {numbers[0]} to {numbers[-1]} are not finite; check the "
                    "pictures, or encode in fp32"
                )
            captions = json.dumps([caption for _, caption in items])
            write_file(path, save({"mean": mean, "std": std}, {"captions": captions}))
        advance(len(numbers))
    _prepare_text(folder, encode_prompts)


def _prepare_text(folder: Path, encode_prompts: EncodePrompts) -> None:
    path = folder / "text.safetensors"
    if path.exists():
        return
    captions = _captions(folder)
    distinct = [*sorted(set(captions)), ""]
    rows = [encode_prompts(distinct[i : i + 64]) for i in range(0, len(distinct), 64)]
    text = {name: torch.cat([row[name].cpu() for row in rows]).contiguous() for name in rows[0]}
    number = {caption: i for i, caption in enumerate(distinct)}
    text["caption"] = torch.tensor([number[caption] for caption in captions])
    write_file(path, save(text))


def load_cache(folder: Path, seed: int, caption_dropout: float = 0.0) -> LatentCache:
    """Read a folder that `prepare` has filled."""
    shards = [load_file(path) for path in _shards(folder)]
    text = load_file(folder / "text.safetensors")
    caption = text.pop("caption")
    return LatentCache(
        mean=torch.cat([shard["mean"] for shard in shards]),
        std=torch.cat([shard["std"] for shard in shards]),
        caption=caption,
        text=text,
        seed=seed,
        caption_dropout=caption_dropout,
    )


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("latents-*.safetensors"))


def _captions(folder: Path) -> list[str]:
    from safetensors import safe_open

    captions: list[str] = []
    for path in _shards(folder):
        with safe_open(path, "pt") as shard:
            captions += json.loads(shard.metadata()["captions"])
    return captions

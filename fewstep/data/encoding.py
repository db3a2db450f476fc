"""Fill a latent cache: shard by shard, by any number of processes, from where it was left."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from fewstep.data.errors import DataError, ImageError
from fewstep.data.latent_cache import INDEX, SHARD, shard_file
from fewstep.data.source import Captioned
from fewstep.data.tensor_file import read_about
from fewstep.files import write_file
from fewstep.types import Conditioning, Latents

PROMPTS_AT_ONCE = 64
Encoded = tuple[Latents, Latents]
"""Mean and standard deviation of the latents of one pair's views, each [views, C, H, W]."""

EncodePairs = Callable[[Sequence[int]], Iterable[Encoded | ImageError]]
"""Encode the pairs with these numbers; one that cannot be used gives its error instead."""

EncodePrompts = Callable[[Sequence[str]], Conditioning]
Start = Callable[[int], Callable[[int], None]]
"""What shows the work: it is told the total, and gives what is told of each part done."""


@dataclass(frozen=True)
class Share:
    """Which process of how many this one is, and how it waits for the others."""

    rank: int = 0
    world_size: int = 1
    wait: Callable[[], None] = field(default=lambda: None)

    def of(self, count: int) -> range:
        """Return the numbers below `count` that are this process's own."""
        return range(self.rank, count, self.world_size)


WHOLE = Share()


def fill_cache(
    folder: Path,
    pairs: Captioned,
    encode_pairs: EncodePairs,
    encode_prompts: EncodePrompts,
    max_skipped: float,
    share: Share = WHOLE,
    start: Start = lambda total: lambda count: None,
    at_once: int | None = None,
) -> None:
    """Encode every pair and every distinct caption that the folder does not hold yet.

    `start` is told how many pairs are this process's, and gives what is told of those done;
    `at_once` of them, or SHARD, make a file, and are lost where it is interrupted.

    Raises:
        DataError: if more than the share `max_skipped` of the images cannot be used, or latents
            are not finite.
    """
    size = at_once or SHARD
    shards = [range(n, min(n + size, len(pairs))) for n in range(0, len(pairs), size)]
    own = share.of(len(shards))
    advance = start(sum(len(shards[number]) for number in own))
    if _is_filled(folder, len(shards)):
        advance(sum(len(shards[number]) for number in own))
        return
    limit, skipped = max_skipped * len(pairs), []
    for number in own:
        path = shard_file(folder, "latents", number)
        if path.exists():
            advance(len(shards[number]))
        else:
            check = partial(check_skipped, limit=limit, before=skipped)
            _write_latents(path, shards[number], pairs, encode_pairs, check, advance)
        skipped += read_about(path)["skipped"]
    share.wait()
    written = [read_about(shard_file(folder, "latents", number)) for number in range(len(shards))]
    check_skipped([reason for shard in written for reason in shard["skipped"]], limit)
    captions = {caption for shard in written for row in shard["captions"] for caption in row}
    texts = ["", *sorted(captions - {""})]
    _write_texts(folder, texts, encode_prompts, share)
    share.wait()
    if share.rank == 0:
        _write_index(folder, written, texts)
    share.wait()


def _is_filled(folder: Path, num_shards: int) -> bool:
    """Return whether the index is there, and every file that it speaks of."""
    if not (folder / INDEX).is_file():
        return False
    counts = {"latents": num_shards, "text": -(-read_about(folder / INDEX)["texts"] // SHARD)}
    return all(
        shard_file(folder, what, number).is_file()
        for what, count in counts.items()
        for number in range(count)
    )


def _write_latents(
    path: Path,
    numbers: Sequence[int],
    pairs: Captioned,
    encode_pairs: EncodePairs,
    check: Callable[[Sequence[str]], None],
    advance: Callable[[int], None],
) -> None:
    rows: dict[str, list[Encoded]] = {}
    kept: list[tuple[str, int]] = []
    captions, skipped = [], []
    for number, encoded in zip(numbers, encode_pairs(numbers), strict=True):
        if isinstance(encoded, ImageError):
            skipped.append(one_line(str(encoded)))
            check(skipped)
        else:
            _check_finite(encoded, pairs.name(number))
            size = "x".join(map(str, encoded[0].shape[1:]))
            kept.append((size, len(rows.setdefault(size, []))))
            rows[size].append(encoded)
            captions.append(pairs.captions(number))
        advance(1)
    tensors = {
        f"{what}.{size}": torch.stack([encoded[i] for encoded in group])
        for size, group in rows.items()
        for i, what in enumerate(("mean", "std"))
    }
    about = {"kept": kept, "captions": captions, "skipped": skipped}
    write_file(path, save(tensors, {"about": json.dumps(about)}))


def _check_finite(encoded: Encoded, name: str) -> None:
    if not all(half.isfinite().all() for half in encoded):
        raise DataError(
            f"the latents of {name} are not finite; check the image, or use another autoencoder"
        )


def one_line(reason: str) -> str:
    """Return an error as a line of a text file, whatever the name of what it is about."""
    return " ".join(reason.split()).encode(errors="backslashreplace").decode()


def check_skipped(reasons: Collection[str], limit: float, before: Sequence[str] = ()) -> None:
    """Stop where more images are left out than the limit allows.

    Raises:
        DataError: with their number and the last reason.
    """
    skipped = [*before, *reasons]
    if len(skipped) > limit:
        raise DataError(
            f"{len(skipped)} images cannot be used, and data.max_skipped allows {int(limit)}; "
            f"the last is {skipped[-1]}. fewstep data check lists them all: mend or remove them, "
            "or raise data.max_skipped"
        )


def _write_texts(
    folder: Path, texts: Sequence[str], encode_prompts: EncodePrompts, share: Share
) -> None:
    for number in share.of(-(-len(texts) // SHARD)):
        path = shard_file(folder, "text", number)
        if not path.exists():
            own = texts[number * SHARD : (number + 1) * SHARD]
            parts = [
                encode_prompts(own[i : i + PROMPTS_AT_ONCE])
                for i in range(0, len(own), PROMPTS_AT_ONCE)
            ]
            tensors = {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}
            write_file(path, save({name: value.contiguous() for name, value in tensors.items()}))


def _write_index(folder: Path, shards: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> None:
    number_of = {text: number for number, text in enumerate(texts)}
    sizes = sorted({size for shard in shards for size, _ in shard["kept"]})
    if not sizes:
        raise DataError(f"{folder} would hold no pair: none of the images can be used")
    captions = [row for shard in shards for row in shard["captions"]]
    columns: dict[str, list[int]] = {
        "shard": [number for number, shard in enumerate(shards) for _ in shard["kept"]],
        "size": [sizes.index(size) for shard in shards for size, _ in shard["kept"]],
        "row": [row for shard in shards for _, row in shard["kept"]],
        "first": list(_running_sums(map(len, captions))),
        "caption": [number_of[caption] for row in captions for caption in row],
    }
    tensors: dict[str, Tensor] = {name: torch.tensor(rows) for name, rows in columns.items()}
    skipped = [reason for shard in shards for reason in shard["skipped"]]
    write_file(folder / "skipped.txt", "".join(f"{reason}\n" for reason in skipped))
    first = shard_file(folder, "latents", columns["shard"][0])
    with safe_open(first, "pt") as file:
        views = file.get_slice(next(iter(file.keys()))).get_shape()[1]
    about = {"sizes": sizes, "num_views": views, "skipped": len(skipped), "texts": len(texts)}
    write_file(folder / INDEX, save(tensors, {"about": json.dumps(about)}))


def _running_sums(lengths: Iterable[int]) -> Iterator[int]:
    total = 0
    yield total
    for length in lengths:
        total += length
        yield total

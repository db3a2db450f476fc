"""Fill a latent cache: file by file, by any number of processes, from where it stopped."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from fewstep.console import Steps, TaskProgress
from fewstep.data.base import Captioned, DataError, ImageError
from fewstep.data.cache import INDEX, SHARD, open_tensors, read_about, shard_file
from fewstep.distributed import ALONE, Processes
from fewstep.files import write_file
from fewstep.types import Conditioning, Latents

PROMPTS_AT_ONCE = 64
Encoded = tuple[Latents, Latents]
"""Mean and standard deviation of the latents of one pair's views, each [views, C, H, W]."""

EncodePairs = Callable[[Sequence[int]], Iterable[Encoded | ImageError]]
"""Encodes the pairs with these numbers; one that cannot be used gives its error instead."""

EncodePrompts = Callable[[Sequence[str]], Conditioning]


def views_of(image: Tensor, num_views: int) -> list[Tensor]:
    """Return an image, and its mirror image where there are two views."""
    return [image, image.flip(-1)][:num_views]


def encode_views(encode_images: Callable[[Tensor], Encoded], views: Sequence[Tensor]) -> Encoded:
    """Return the latents of each view in fp32 on the CPU; none depends on the others."""
    halves = [encode_images(view[None]) for view in views]
    mean, std = (torch.cat([half[i] for half in halves]).float().cpu() for i in (0, 1))
    return mean.contiguous(), std.contiguous()


def own_shards(num_pairs: int, shard_size: int, processes: Processes) -> dict[int, range]:
    """Return the numbers of the files that this process writes, and the pairs of each."""
    starts = range(0, num_pairs, shard_size)[processes.rank :: processes.count]
    return {n // shard_size: range(n, min(n + shard_size, num_pairs)) for n in starts}


def fill_cache(
    folder: Path,
    pairs: Captioned,
    encode_pairs: EncodePairs,
    encode_prompts: EncodePrompts,
    max_skipped: float,
    *,
    processes: Processes = ALONE,
    shard_size: int | None = None,
) -> Steps[None]:
    """Encode every pair and every distinct caption that the folder lacks.

    Each process writes every `count`-th file of `shard_size` pairs; a file that is interrupted is
    lost.

    Raises:
        DataError: if more than the fraction `max_skipped` of the images cannot be used, or latents
            are not finite.
    """
    shard_size, limit = shard_size or SHARD, max_skipped * len(pairs)
    own, num_shards = own_shards(len(pairs), shard_size, processes), -(-len(pairs) // shard_size)
    total = sum(map(len, own.values()))
    progress = partial(TaskProgress, "encoding images", total=total)
    if _is_filled(folder, num_shards):
        yield progress(total)
        return
    done, skipped = 0, []
    for number, numbers in own.items():
        path = shard_file(folder, "latents", number)
        if not path.exists():
            written = _write_latents(path, numbers, pairs, encode_pairs(numbers), skipped, limit)
            yield from (progress(done + count) for count in written)
        done += len(numbers)
        yield progress(done)
        skipped += read_about(path)["skipped"]
    processes.wait()
    shards = [read_about(shard_file(folder, "latents", number)) for number in range(num_shards)]
    check_skipped([reason for shard in shards for reason in shard["skipped"]], limit)
    captions = {caption for shard in shards for row in shard["captions"] for caption in row}
    texts = ["", *sorted(captions - {""})]
    _write_texts(folder, texts, encode_prompts, processes)
    processes.wait()
    if processes.is_main:
        _write_index(folder, shards, texts)
    processes.wait()


def _is_filled(folder: Path, num_shards: int) -> bool:
    """Return whether the index is there, and every file that it names."""
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
    encoded_pairs: Iterable[Encoded | ImageError],
    skipped_before: Sequence[str],
    limit: float,
) -> Iterator[int]:
    rows: dict[str, list[Encoded]] = {}
    kept: list[tuple[str, int]] = []
    captions, skipped = [], []
    for count, (number, encoded) in enumerate(zip(numbers, encoded_pairs, strict=True), 1):
        if isinstance(encoded, ImageError):
            skipped.append(one_line(str(encoded)))
            check_skipped([*skipped_before, *skipped], limit)
        elif not all(half.isfinite().all() for half in encoded):
            raise DataError(
                f"the latents of {pairs.name(number)} are not finite; check the image, or use "
                "another autoencoder"
            )
        else:
            size = "x".join(map(str, encoded[0].shape[1:]))
            kept.append((size, len(rows.setdefault(size, []))))
            rows[size].append(encoded)
            captions.append(pairs.captions(number))
        yield count
    tensors = {
        f"{what}.{size}": torch.stack([encoded[i] for encoded in group])
        for size, group in rows.items()
        for i, what in enumerate(("mean", "std"))
    }
    about = {"kept": kept, "captions": captions, "skipped": skipped}
    write_file(path, save(tensors, {"about": json.dumps(about)}))


def one_line(reason: str) -> str:
    """Return an error as one line of UTF-8, whatever the file that it names is called."""
    return " ".join(reason.split()).encode(errors="backslashreplace").decode()


def check_skipped(reasons: Collection[str], limit: float) -> None:
    """Raise a DataError if more images are left out than the limit allows."""
    if len(reasons) > limit:
        raise DataError(
            f"{len(reasons)} images cannot be used, and data.max_skipped allows {int(limit)}; "
            f"the last is {list(reasons)[-1]}. fewstep data check lists them all: fix or remove "
            "them, or raise data.max_skipped"
        )


def _write_texts(
    folder: Path, texts: Sequence[str], encode_prompts: EncodePrompts, processes: Processes
) -> None:
    for number, numbers in own_shards(len(texts), SHARD, processes).items():
        path = shard_file(folder, "text", number)
        if not path.exists():
            own = [texts[i] for i in numbers]
            starts = range(0, len(own), PROMPTS_AT_ONCE)
            parts = [encode_prompts(own[i : i + PROMPTS_AT_ONCE]) for i in starts]
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
        "first": list(accumulate(map(len, captions), initial=0)),
        "caption": [number_of[caption] for row in captions for caption in row],
    }
    skipped = [reason for shard in shards for reason in shard["skipped"]]
    write_file(folder / "skipped.txt", "".join(f"{reason}\n" for reason in skipped))
    first = open_tensors(shard_file(folder, "latents", columns["shard"][0]))
    num_views = next(iter(first.tensors.values()))["shape"][1]
    about = {"sizes": sizes, "num_views": num_views, "skipped": len(skipped), "texts": len(texts)}
    tensors = {name: torch.tensor(rows) for name, rows in columns.items()}
    write_file(folder / INDEX, save(tensors, {"about": json.dumps(about)}))

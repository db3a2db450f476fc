"""Fill a latent cache: file by file, by any number of processes, from where it stopped."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from fewstep.console import Steps, TaskProgress
from fewstep.data.base import Captioned, ImageError
from fewstep.data.cache import INDEX, SHARD, open_tensors, read_about, shard_file
from fewstep.diffusion.conditioning import joined
from fewstep.distributed import ALONE, Processes
from fewstep.errors import DataError
from fewstep.files import write_file
from fewstep.types import Conditioning, Latents

PROMPTS_AT_ONCE = 64
Encoded = tuple[Latents, Latents]
"""Mean and standard deviation of the latents of one pair's views, each [views, C, H, W]."""

EncodePairs = Callable[[Sequence[int]], Iterable[Encoded | ImageError]]
"""Encodes the pairs with these numbers; one that cannot be used gives its error instead."""

EncodePrompts = Callable[[Sequence[str]], Conditioning]


def encode_views(
    encode_images: Callable[[Tensor], Encoded], image: Tensor, views: Iterable[int]
) -> Encoded:
    """Return the latents of an image (view 0) and its mirror image (1) in fp32 on the CPU.

    Each is encoded by itself, so that it does not depend on the others.
    """
    halves = [encode_images((image.flip(-1) if view else image)[None]) for view in views]
    mean, std = (torch.cat([half[i] for half in halves]).float().cpu() for i in (0, 1))
    return mean.contiguous(), std.contiguous()


def fill_cache(
    folder: Path,
    pairs: Captioned,
    encode_pairs: EncodePairs,
    encode_prompts: EncodePrompts,
    max_skipped: float,
    *,
    processes: Processes = ALONE,
    shard_size: int | None = None,
    look_at: Callable[[Sequence[str]], str | None] = lambda texts: None,
    by_length: bool = False,
) -> Steps[None]:
    """Encode every pair and every distinct caption that the folder lacks.

    Each process writes every `count`-th file of `shard_size` pairs; what is interrupted is at most
    one file. The index keeps what `look_at` says about all captions. Rows of texts in a file are
    padded to its longest: with `by_length` captions of about one length share a file.

    Raises:
        DataError: if more than the fraction `max_skipped` of the images cannot be used, or latents
            are not finite.
    """
    limit, own = max_skipped * len(pairs), slice(processes.rank, None, processes.count)
    files = _files(folder, "latents", len(pairs), shard_size or SHARD)
    total = sum(len(numbers) for _, numbers in files[own])
    progress = partial(TaskProgress, "encoding images", total=total)
    if _is_filled(folder, files):
        yield progress(total)
        return
    done, skipped = 0, []
    for path, numbers in files[own]:
        if not path.exists():
            encoded = zip(numbers, encode_pairs(numbers), strict=True)
            written = _write_latents(path, encoded, pairs, skipped, limit)
            yield from (progress(done + count) for count in written)
        done += len(numbers)
        yield progress(done)
        skipped += read_about(path)["skipped"]
    processes.wait()
    shards = [read_about(path) for path, _ in files]
    check_skipped([reason for shard in shards for reason in shard["skipped"]], limit)
    captions = [caption for shard in shards for row in shard["captions"] for caption in row]
    texts = ["", *sorted({*captions} - {""}, key=lambda c: (len(c) if by_length else 0, c))]
    for path, numbers in _files(folder, "text", len(texts), SHARD)[own]:
        if not path.exists():
            _write_texts(path, [texts[number] for number in numbers], encode_prompts)
    processes.wait()
    if processes.is_main:
        _write_index(folder, shards, texts, look_at(captions))
    processes.wait()


def _files(folder: Path, what: str, count: int, size: int) -> list[tuple[Path, range]]:
    """Return the path of every file of `size` pairs or texts, and the numbers of these."""
    return [
        (shard_file(folder, what, start // size), range(start, min(start + size, count)))
        for start in range(0, count, size)
    ]


def _is_filled(folder: Path, latents: list[tuple[Path, range]]) -> bool:
    """Return whether the index is there, and every file that it names."""
    if not (folder / INDEX).is_file():
        return False
    texts = _files(folder, "text", read_about(folder / INDEX)["texts"], SHARD)
    return all(path.is_file() for path, _ in [*latents, *texts])


def _write_latents(
    path: Path,
    encoded_pairs: Iterable[tuple[int, Encoded | ImageError]],
    pairs: Captioned,
    skipped_before: Sequence[str],
    limit: float,
) -> Iterator[int]:
    """Write a file of latents, with captions and skipped pairs in its header; yield the count."""
    rows: dict[str, list[Encoded]] = {}
    kept: list[tuple[str, int]] = []
    captions, skipped = [], []
    for count, (number, encoded) in enumerate(encoded_pairs, 1):
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


def check_skipped(reasons: Sequence[str], limit: float) -> None:
    """Raise a DataError if more images are left out than the limit allows."""
    if len(reasons) > limit:
        raise DataError(
            f"{len(reasons)} images cannot be used, and data.max_skipped allows {int(limit)}; "
            f"the last is {reasons[-1]}. fewstep data check lists them all: fix or remove them, or "
            "raise data.max_skipped"
        )


def _write_texts(path: Path, texts: Sequence[str], encode_prompts: EncodePrompts) -> None:
    starts = range(0, len(texts), PROMPTS_AT_ONCE)
    parts = [encode_prompts(texts[i : i + PROMPTS_AT_ONCE]) for i in starts]
    tensors = {name: value.cpu().contiguous() for name, value in joined(parts).items()}
    write_file(path, save(tensors))


def _write_index(
    folder: Path, shards: Sequence[Mapping[str, Any]], texts: Sequence[str], notice: str | None
) -> None:
    """Write which row of which file each pair is, after the list of skipped images."""
    number_of = {text: number for number, text in enumerate(texts)}
    kept = [(n, size, row) for n, shard in enumerate(shards) for size, row in shard["kept"]]
    sizes = sorted({size for _, size, _ in kept})
    if not sizes:
        raise DataError(f"{folder} would hold no pair: none of the images can be used")
    captions = [row for shard in shards for row in shard["captions"]]
    columns: dict[str, list[int]] = {
        "shard": [number for number, _, _ in kept],
        "size": [sizes.index(size) for _, size, _ in kept],
        "row": [row for _, _, row in kept],
        "first": list(accumulate(map(len, captions), initial=0)),
        "caption": [number_of[caption] for row in captions for caption in row],
    }
    skipped = [reason for shard in shards for reason in shard["skipped"]]
    write_file(folder / "skipped.txt", "".join(f"{reason}\n" for reason in skipped))
    first = open_tensors(shard_file(folder, "latents", kept[0][0]))
    num_views = next(iter(first.tensors.values()))["shape"][1]
    about = {"sizes": sizes, "num_views": num_views, "skipped": len(skipped), "texts": len(texts),
             "notice": notice}  # fmt: skip
    tensors = {name: torch.tensor(rows) for name, rows in columns.items()}
    write_file(folder / INDEX, save(tensors, {"about": json.dumps(about)}))

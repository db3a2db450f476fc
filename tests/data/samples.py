"""Images of every kind, made where a test needs them."""

import json
import struct
import tarfile
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from fewstep.world.scenes import COLOURS, SHAPES

RED, SIZE = (200, 30, 40), (96, 80)


def content(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(number: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """Return an image that is like no other."""
    values = np.random.default_rng(number).integers(0, 255, (size[1] // 8, size[0] // 8, 3))
    return Image.fromarray(values.astype(np.uint8)).resize(size)


def bomb() -> bytes:
    """Return a PNG of a few bytes whose header says 400 megapixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", 20000, 20000, 1, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(9))), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def truncated() -> bytes:
    """Return a JPEG without its end, which PIL's `verify` lets through."""
    whole = content(noise(0, (320, 240)), "JPEG")
    return whole[: len(whole) // 2]


def folder_of(folder: Path, count: int, size: tuple[int, int] = SIZE) -> Path:
    """Write `count` images with caption files."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        noise(i, size).save(folder / f"{i:03d}.png")
        (folder / f"{i:03d}.txt").write_text(f"image {i}\n")
    return folder


def caption(number: int) -> str:
    """Return words that the tiny tokenizer knows, others for each number."""
    colour, shape = list(COLOURS)[number % len(COLOURS)], SHAPES[number // len(COLOURS)]
    return f"a {colour} {shape}"


def coco(root: Path, count: int = 8, broken: tuple[int, ...] = ()) -> Path:
    """Write a COCO-shaped set of two captions an image; return its captions file."""
    folder = root / "train2017"
    folder.mkdir(parents=True)
    (root / "annotations").mkdir()
    images, annotations = [], []
    for i in range(count):
        name = f"{i:012d}.jpg"
        (folder / name).write_bytes(
            truncated() if i in broken else content(noise(i, (96, 80)), "JPEG")
        )
        images.append({"id": 1000 - i, "file_name": name})
        for j in (1, 0):
            annotations.append(
                {"id": 10 * i + j, "image_id": 1000 - i, "caption": f"{caption(2 * i + j)}\n"}
            )
    path = root / "annotations" / "captions_train2017.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def shard(path: Path, members: dict[str, bytes]) -> Path:
    """Write a tar file of these members."""
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
    return path


def shards(folder: Path, sizes: tuple[int, ...]) -> Path:
    """Write shards of so many pairs each, numbered through."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for i, size in enumerate(sizes):
        members = {}
        for _ in range(size):
            members[f"{number:03d}.png"] = content(noise(number))
            members[f"{number:03d}.txt"] = f"image {number}".encode()
            number += 1
        shard(folder / f"{i:04d}.tar", members)
    return folder


def parquets(folder: Path, names: tuple[str, ...]) -> Path:
    """Write tables of one row each, as `datasets` does."""
    import datasets

    kinds = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    for number, name in enumerate(names):
        image = {"bytes": content(noise(number)), "path": None}
        columns = {"image": [image], "text": [f"of file {number}"]}
        file = folder / f"{name}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(columns, features=kinds).to_parquet(file)
    return folder

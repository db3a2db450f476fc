"""Captioned pictures: (picture, caption) pairs from a folder or from the bundled world."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from fewstep.errors import UserError

CAPTION_SUFFIXES = (".txt", ".caption")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class DataError(UserError):
    """Data that cannot be used; the message names the file and the way out."""


class Pairs(Protocol):
    """Numbered pairs of a picture [3, H, W] in [0, 1] and its caption."""

    @property
    def identity(self) -> str:
        """What a cache of these pairs depends on."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, str]: ...


@dataclass(frozen=True)
class BundledPairs:
    """Scenes of the bundled world, drawn on the spot; pair i is a function of (seed, i)."""

    num_pairs: int
    resolution: int
    seed: int = 0

    @property
    def identity(self) -> str:
        return f"bundled scenes, seed {self.seed}"

    def __len__(self) -> int:
        return self.num_pairs

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        from fewstep.bundled.captions import describe
        from fewstep.bundled.scenes import render, sample_scene

        rng = np.random.default_rng([self.seed, index])
        scene = sample_scene(rng)
        return _as_tensor(render(scene, self.resolution)), describe(scene, rng)


@dataclass(frozen=True)
class FolderPairs:
    """Pictures with a caption of the same name beside each (`cat.jpg`, `cat.txt`).

    Pictures are turned upright, shrunk so that the short side is `resolution`, and cut in the
    middle.

    Raises:
        DataError: if the folder holds no pair, or a picture has no caption beside it.
    """

    folder: Path
    resolution: int
    num_pairs: int | None = None
    pictures: tuple[Path, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise DataError(f"data.path is {str(self.folder)!r}, which is no folder")
        found = sorted(p for p in self.folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
        if not found:
            raise DataError(
                f"{self.folder} holds no pictures; put {', '.join(PICTURE_SUFFIXES)} files there, "
                "each with a .txt file of the same name that holds its caption"
            )
        for picture in found:
            _caption_path(picture)
        object.__setattr__(self, "pictures", tuple(found[: self.num_pairs]))

    @property
    def identity(self) -> str:
        stats = (f"{p.name} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in self._files())
        return "\n".join([str(self.folder), *stats])

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        path = self.pictures[index]
        try:
            with Image.open(path) as opened:
                picture = ImageOps.exif_transpose(opened).convert("RGB")
        except (OSError, Image.DecompressionBombError) as error:
            raise DataError(f"cannot read the picture {path}: {error}") from error
        if min(picture.size) < self.resolution:
            raise DataError(
                f"{path} has {picture.width} x {picture.height} pixels, fewer than data.resolution "
                f"= {self.resolution}; remove it or lower data.resolution"
            )
        picture = ImageOps.fit(
            picture, (self.resolution, self.resolution), Image.Resampling.LANCZOS
        )
        return _as_tensor(np.asarray(picture)), _caption(path)

    def _files(self) -> Iterator[Path]:
        for picture in self.pictures:
            yield picture
            yield _caption_path(picture)


def open_pairs(path: str, resolution: int, num_pairs: int | None, seed: int) -> Pairs:
    """Look at what `path` is, and return its pairs.

    Raises:
        DataError: if it is nothing that is known.
    """
    if path == "bundled":
        return BundledPairs(num_pairs or 4096, resolution, seed)
    return FolderPairs(Path(path), resolution, num_pairs)


def _caption_path(picture: Path) -> Path:
    for suffix in CAPTION_SUFFIXES:
        if (path := picture.with_suffix(suffix)).is_file():
            return path
    raise DataError(f"{picture} has no caption: write it into {picture.with_suffix('.txt')}")


def _caption(picture: Path) -> str:
    path = _caption_path(picture)
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the caption {path}: {error}; save it as UTF-8") from error


def _as_tensor(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255

"""From images to features: each set of images goes through each network once, then is cached.

The preparation of images is our own: image processors of libraries change with what else is
installed, and the same network then gets other pixels.
"""

# diffusers, transformers and PEFT return their networks and configs without types
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor

from fewstep.evaluation.inception import SIDE, load_inception
from fewstep.evaluation.weights import INCEPTION, Weights, clip
from fewstep.files import write_file
from fewstep.images import Images
from fewstep.models.loading import quietly

Features = NDArray[np.float32]
Device = torch.device | str
BATCH = 50
BUNDLED = Path(__file__).parents[1] / "world"

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Extractor:
    """A network that turns images into features, and what its numbers depend on."""

    title: str
    """Backbone and resize filter, as a protocol names them."""
    load: Callable[[Path, Device], Callable[[Images], Features]]
    weights: Weights | None = None

    def find(self, folder: Path | None = None) -> Path:
        """Return where its weights are, in the package if they are shipped; see `Weights.find`."""
        return self.weights.find(folder) if self.weights else BUNDLED


@dataclass(frozen=True)
class FeatureCache:
    """One extractor's features of images, on disk by what they were computed from."""

    folder: Path
    identity: str
    """Changes with anything that the features depend on, but for the images."""
    load: Callable[[], Callable[[Images], Features]]

    @classmethod
    def of_extractor(cls, name: str, folder: Path, weights: Path | None, device: Device) -> Self:
        """Return the cache of one of EXTRACTORS; raises WeightsMissing if it has no weights."""
        extractor = EXTRACTORS[name]
        path = extractor.find(weights)
        return cls(folder, f"{name} {identity_of(path)}", lambda: extractor.load(path, device))

    @cached_property
    def extractor(self) -> Callable[[Images], Features]:
        """The network, loaded for the first images that are not cached."""
        return self.load()

    def of(self, images: Images) -> Features:
        """Return the features of images uint8 [n, H, W, 3]."""
        return self.kept(content_key(images), lambda: self.extractor(images))

    def of_set(self, identity: str, batches: Callable[[], Iterator[Images]]) -> Features:
        """Return the features of a whole set, which is not read where they are cached."""
        return self.kept(identity, lambda: np.concatenate([*map(self.extractor, batches())]))

    def kept(self, key: str, compute: Callable[[], Features]) -> Features:
        """Return the features cached under the key, computing them the first time."""
        name = hashlib.sha256(f"{self.identity} {key}".encode()).hexdigest()[:32]
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            write_file(path, save({"features": torch.from_numpy(compute()).contiguous()}))
        return load_file(path)["features"].numpy()


def content_key(images: Images, *words: str) -> str:
    """Return a key that changes with any pixel, and with the words."""
    sha = hashlib.sha256(repr((images.shape, words)).encode())
    sha.update(np.ascontiguousarray(images).data)
    return sha.hexdigest()


def identity_of(path: Path) -> str:
    """Return a digest of a file, or of a folder with all in it: names, sizes, times."""
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    facts = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.suffix != ".pyc"]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def load_bundled(path: Path, device: Device) -> Callable[[Images], Features]:
    """Return the small network that ships with the bundled world."""
    from fewstep.world.features import load_feature_network

    network = load_feature_network(path / "weights" / "features").to(device)
    return in_batches(lambda part: network(torch.from_numpy(part).permute(0, 3, 1, 2).to(device)))


def load_fid_inception(path: Path, device: Device) -> Callable[[Images], Features]:
    """Return Inception's last pooling, of images resized as clean-fid does."""
    network = load_inception(path).to(device)
    return in_batches(lambda part: network((resized(part, SIDE) / 127.5 - 1).to(device)))


def load_clip(path: Path, device: Device) -> Callable[[Images], Features]:
    """Return CLIP's embedding of images."""
    from transformers import CLIPVisionModelWithProjection

    with quietly():
        network = CLIPVisionModelWithProjection.from_pretrained(path, local_files_only=True)
    network = network.to(device).eval()
    mean, std = (torch.tensor(row).view(1, 3, 1, 1) for row in (CLIP_MEAN, CLIP_STD))

    def embed(part: Images) -> Tensor:
        pixels = (resized(part, network.config.image_size).round() / 255 - mean) / std
        return network(pixel_values=pixels.to(device)).image_embeds

    return in_batches(embed)


def embed_prompts(path: Path, prompts: Sequence[str], device: Device = "cpu") -> Features:
    """Return CLIP's embedding of prompts; one that is too long loses its end."""
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    with quietly():
        tokenizer = CLIPTokenizer.from_pretrained(path, local_files_only=True)
        network = CLIPTextModelWithProjection.from_pretrained(path, local_files_only=True)
    network = network.to(device).eval()

    def embed(part: Sequence[str]) -> Tensor:
        tokens = tokenizer(
            list(part), padding="max_length", truncation=True,
            max_length=network.config.max_position_embeddings, return_tensors="pt",
        )  # fmt: skip
        return network(**tokens.to(device)).text_embeds

    return in_batches(embed)(prompts)


def in_batches(network: Callable[[Any], Tensor]) -> Callable[[Any], Features]:
    """Return a network that takes its inputs a few at a time, without gradients."""

    @torch.no_grad()
    def features(inputs: Any) -> Features:
        starts = range(0, len(inputs), BATCH)
        return torch.cat([network(inputs[i : i + BATCH]).float().cpu() for i in starts]).numpy()

    return features


def resized(images: Images, side: int) -> Tensor:
    """Return images as [n, 3, side, side] from 0 to 255, each channel resized in floating point.

    Pillow's bicubic filter widens with the reduction, so that nothing is aliased; values beyond
    0 and 255 are cut off. Images that are not square lose their longer ends.

    Source: Parmar et al. 2022 (On Aliased Resizing and Surprising Subtleties in GAN Evaluation).
    """
    height, width = images.shape[1:3]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    square = images[:, top : top + short, left : left + short].astype(np.float32)
    channels = square.transpose(0, 3, 1, 2).reshape(-1, short, short)
    if short != side:
        size, bicubic = (side, side), Image.Resampling.BICUBIC
        filtered = [np.asarray(Image.fromarray(c).resize(size, bicubic)) for c in channels]
        channels = np.stack(filtered).clip(0, 255)
    return torch.from_numpy(np.ascontiguousarray(channels)).view(-1, 3, side, side)


EXTRACTORS: dict[str, Extractor] = {
    "bundled": Extractor("small network of the bundled world", load_bundled),
    "inception": Extractor(
        "Inception v3 (2015), bicubic resize to 299 in floating point (Pillow)",
        load_fid_inception, INCEPTION,
    ),
    "clip-l14": Extractor(
        "CLIP ViT-L/14, bicubic resize to 224", load_clip, clip("clip-vit-large-patch14")
    ),
    "clip-l14-336": Extractor(
        "CLIP ViT-L/14-336, bicubic resize to 336", load_clip, clip("clip-vit-large-patch14-336")
    ),
}  # fmt: skip
"""The networks whose features metrics compare, by the name that a metric gives."""

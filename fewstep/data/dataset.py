"""What the table [data] stands for once there is a model: pairs, their cache, and batches."""

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from fewstep.config import DataSettings, SettingError
from fewstep.data.encoding import WHOLE, Encoded, Share, Start, fill_cache
from fewstep.data.errors import ImageError
from fewstep.data.fingerprint import Fingerprint, claim_cache
from fewstep.data.latent_cache import LatentCache, open_cache
from fewstep.data.loader import Batches, read_ahead
from fewstep.data.opening import open_data
from fewstep.data.order import ordered
from fewstep.data.pairs import ImagePairs, Pairs
from fewstep.data.prompts import Prompts
from fewstep.data.source import digest
from fewstep.data.stream import Stream, encode_views, views_of
from fewstep.diffusion.random import generator
from fewstep.files import check_writable
from fewstep.models.base import ModelFamily, fingerprint
from fewstep.student.generate import teacher_sampler
from fewstep.types import Conditioning

FORMAT = 2
"""Of the cache; another one is encoded anew."""

GENERATED_AT_ONCE = 8
GENERATED_SHARD = 64
"""Pairs in a file of the teacher's: each has cost it some hundred calls."""

LIBRARIES = ("torch", "diffusers", "transformers", "pillow")
"""Whose versions may change the last bits of a latent."""


@dataclass(frozen=True)
class Dataset:
    """The data of a run: `root` is the folder of caches, `teacher_guidance` that of prompts."""

    settings: DataSettings
    family: ModelFamily
    resolution: int
    root: Path
    teacher_guidance: float

    @cached_property
    def pairs(self) -> Pairs | Prompts:
        self.family.latent_shape(self.resolution)  # before images are looked for
        index = self.root / "shards"
        return open_data(self.settings, self.resolution, self.family.image_divisor, index)

    @property
    def num_views(self) -> int:
        return 2 if self.settings.flip and not isinstance(self.pairs, Prompts) else 1

    @cached_property
    def codec(self) -> Mapping[str, Any]:
        """Everything of the model that turns images and captions into latents and texts."""
        return {
            "codec": fingerprint(*self.family.vae_and_text_encoder),
            **_codec_settings(self.family),
        }

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Everything that the latents and texts depend on."""
        data = self.settings
        made_from = {
            "format": FORMAT,
            "pairs": self.pairs.identity,
            "num_pairs": len(self.pairs),
            "resolution": self.resolution,
            "num_views": self.num_views,
            **self.codec,
        }
        if isinstance(self.pairs, Prompts):
            made_from |= {
                "teacher": self.family.fingerprint,
                "schedule": self.family.schedule.digest,
                "prediction": self.family.scheduler_config.get("prediction_type", "epsilon"),
                "teacher_steps": data.teacher_steps,
                "teacher_guidance": self.teacher_guidance,
                "precision": str(self.family.dtype),
                "seed": data.seed,
            }
        else:
            made_from |= {
                name: getattr(data, name)
                for name in ("captions", "crop", "buckets", "max_upscale", "seed")
            }
        versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
        return Fingerprint(made_from, versions, data.path)

    @property
    def cache_folder(self) -> Path:
        return self.root / self.fingerprint.key

    def claim(self) -> list[str]:
        """Make the cache's folder with room for it, and return what a user should know."""
        check_writable(self.root, self.cache_bytes)
        notes = claim_cache(self.root, self.fingerprint)
        if isinstance(self.pairs, ImagePairs) and (unused := self.pairs.source.unused):
            listed = "fewstep data check lists them"
            notes.append(f"{len(unused)} files belong to no pair, such as {unused[0]}; {listed}")
        return notes

    @property
    def cache_bytes(self) -> int:
        """The size of the cache on the disk, less what is there already."""
        shape = self.family.latent_shape(self.resolution)
        latents = 2 * self.num_views * torch.Size(shape).numel() * 4
        text = sum(row.numel() * row.element_size() for row in self._empty.values())
        texts = len(self.pairs)
        if self.settings.captions == "all":
            texts = sum(len(self.pairs.captions(number)) for number in range(len(self.pairs)))
        there = sum(file.stat().st_size for file in self.cache_folder.glob("*.safetensors"))
        return max(0, len(self.pairs) * latents + texts * text - there)

    def fill(self, share: Share = WHOLE, start: Start = lambda total: lambda count: None) -> None:
        """Encode what is not encoded yet."""
        generates = isinstance(self.pairs, Prompts)
        fill_cache(
            self.cache_folder,
            self.pairs,
            self._generated if generates else self._encoded,
            self.family.encode_prompts,
            self.settings.max_skipped,
            share,
            start,
            at_once=GENERATED_SHARD if generates else None,
        )

    def cache(self, seed: int, group: int) -> LatentCache:
        """Open the cache for a run with this seed, whose steps see `group` samples each."""
        data = self.settings
        return open_cache(self.cache_folder, seed, data.caption_dropout, data.shuffle_buffer, group)

    def stream(self, seed: int, tell: Callable[[str], None]) -> Stream:
        """Return the pairs as they are encoded at each step.

        Raises:
            SettingError: if there are prompts alone.
        """
        data = self.settings
        if isinstance(self.pairs, Prompts):
            raise SettingError(
                f"data.streaming is true, and {data.path} holds prompts alone: the teacher would "
                "generate each at each step; leave data.streaming out, so that it does so once"
            )
        return Stream(
            pairs=self.pairs,
            order=ordered(self.pairs.parts, seed, data.shuffle_buffer),
            encode_views=partial(encode_views, self.family.encode_images),
            encode_prompts=self.family.encode_prompts,
            seed=seed,
            num_views=self.num_views,
            caption_dropout=data.caption_dropout,
            tell=tell,
        )

    def batches(self, seed: int, group: int, tell: Callable[[str], None]) -> Batches:
        """Return what [data] asks for, the cache or the stream."""
        is_streaming = self.settings.streaming
        found = self.stream(seed, tell) if is_streaming else self.cache(seed, group)
        return cast(Batches, found)  # their cached properties are no properties to pyright

    @cached_property
    def _empty(self) -> Conditioning:
        return self.family.encode_prompts([""])

    def _encoded(self, numbers: Sequence[int]) -> Iterator[Encoded | ImageError]:
        assert not isinstance(self.pairs, Prompts)
        one_by_one = [(number,) for number in numbers]
        read = read_ahead(partial(_image, self.pairs), one_by_one, self.settings.workers)
        for number in one_by_one:
            try:
                views = views_of(read(number), self.num_views)
            except ImageError as error:
                yield error
            else:
                yield encode_views(self.family.encode_images, views)

    def _generated(self, numbers: Sequence[int]) -> Iterator[Encoded]:
        """Let the teacher generate; what it generates is sure, so that the deviation is 0."""
        data = self.settings
        sampler = teacher_sampler(self.family, data.teacher_steps, self.teacher_guidance)
        seed = generator(data.seed, "prompts").initial_seed()  # not the noise of evaluation
        for first in range(0, len(numbers), GENERATED_AT_ONCE):
            own = numbers[first : first + GENERATED_AT_ONCE]
            prompts = [self.pairs.captions(number)[0] for number in own]
            for latents in sampler.latents(prompts, seed, self.resolution, own).cpu():
                yield latents[None], torch.zeros_like(latents[None])


def _codec_settings(family: ModelFamily) -> Mapping[str, Any]:
    """Return what decides latents and texts beside the weights, where a family has it."""
    settings: dict[str, Any] = {}
    if (vae := getattr(family, "vae", None)) is not None:
        settings["scaling_factor"] = vae.config.scaling_factor
    if (tokenizer := getattr(family, "tokenizer", None)) is not None:
        words = [f"{word} {number}" for word, number in sorted(tokenizer.get_vocab().items())]
        settings["tokenizer"] = digest([*words, str(tokenizer.model_max_length)])
    return settings


def _image(pairs: Pairs, numbers: Sequence[int]) -> Tensor:
    """Decode one image, in a loader process where there are any."""
    return pairs.image(numbers[0])

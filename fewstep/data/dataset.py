"""What the table [data] stands for once there is a model: pairs, their cache, and batches."""

import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from fewstep.config import DataSettings
from fewstep.console import Steps, counted
from fewstep.data.base import ImageError
from fewstep.data.cache import INDEX, LatentCache, open_cache, read_about
from fewstep.data.encode import Encoded, encode_views, fill_cache, one_line
from fewstep.data.fingerprint import Fingerprint, claim_cache
from fewstep.data.loader import Batches, read_ahead
from fewstep.data.order import ordered
from fewstep.data.pairs import ImagePairs, Pairs, Prompts, open_data
from fewstep.data.stream import Stream
from fewstep.diffusion.random import generator
from fewstep.distributed import ALONE, Processes
from fewstep.errors import SettingError
from fewstep.files import check_writable
from fewstep.models.base import ModelFamily, earlier_fingerprint, fingerprint, prediction_type
from fewstep.models.prompts import cut_notice
from fewstep.models.quantised import quantisation
from fewstep.student.generate import teacher_sampler
from fewstep.student.seeds import numbered_generators

FORMAT = 2
"""Of the cache; one of another format is encoded again."""

GENERATED_BATCH, GENERATED_SHARD = 8, 64
"""Pairs that the teacher generates at a time, and those in a file: each costs 100 evaluations."""

LOOKED_AT = 1000
"""Captions of a stream that are looked at for their length before training."""

LIBRARIES = ("torch", "diffusers", "transformers", "pillow")
"""Whose versions may change the last bits of a latent."""


@dataclass
class Dataset:
    """The data of a run, opened and fingerprinted; `root` is the folder of all caches.

    Raises:
        UserError: if the resolution does not suit the model, or the data cannot be used.
    """

    settings: DataSettings
    family: ModelFamily
    resolution: int
    root: Path
    teacher_guidance: float
    needs_latents: bool = True
    """Without them captions alone are read and encoded: images are neither looked at nor made."""
    pairs: Pairs | Prompts = field(init=False)
    num_views: int = field(init=False)
    encoders: dict[str, Any] = field(init=False)
    """Everything of the model that turns images and captions into latents and texts."""
    fingerprint: Fingerprint = field(init=False)
    """Everything that the latents and texts depend on."""

    def __post_init__(self) -> None:
        self.family.latent_shape(self.resolution)  # before images are looked for
        index, divisor = self.root / "shards", self.family.image_divisor
        self.pairs = open_data(self.settings, self.resolution, divisor, index)
        has_images = self.needs_latents and not isinstance(self.pairs, Prompts)
        self.num_views = 2 if self.settings.flip and has_images else 1
        self.encoders = _encoders(self.family)
        versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
        self.fingerprint = Fingerprint(self._made_from(), versions, self.settings.path)

    @property
    def earlier_encoders(self) -> dict[str, Any]:
        """The `encoders` as a run of release 0.1.0 may have kept them."""
        return self.encoders | {"codec": earlier_fingerprint(*self.family.vae_and_text_encoder)}

    @property
    def notes(self) -> list[str]:
        """What the user should know of files and samples that are not trained on."""
        if not isinstance(self.pairs, ImagePairs):
            return []
        source, listed = self.pairs.source, "fewstep data check lists them"
        notes = []
        if left_out := source.left_out:
            what = f"{counted(len(left_out), 'sample')} left out, such as {left_out[0]}"
            notes.append(f"{what}; {listed}")
        if unused := source.unused:
            what = f"{counted(len(unused), 'file')} beside the pairs, such as {unused[0]}"
            notes.append(f"{what}; {listed}")
        return list(map(one_line, notes))

    @property
    def cache_folder(self) -> Path:
        """The folder of this dataset's latents, named by its fingerprint."""
        return self.root / self.fingerprint.key

    @property
    def cache_bytes(self) -> int:
        """The size of the cache on the disk, less what is there already."""
        if (self.cache_folder / INDEX).is_file():
            return 0
        shape = self.family.latent_shape(self.resolution)
        latents = 2 * self.num_views * torch.Size(shape).numel() * 4
        rows = self.family.encode_prompts([""]).values()
        texts = len(self.pairs)
        if self.settings.captions == "all" or self.family.long_prompts == "chunks":
            captions = [c for number in range(len(self.pairs)) for c in self.pairs.captions(number)]
            texts = len(captions)
            if self.family.long_prompts == "chunks":
                texts = sum(length.chunks for length in self.family.prompt_lengths(captions))
        latents *= self.needs_latents
        needed = len(self.pairs) * latents + texts * sum(row.nbytes for row in rows)
        there = sum(file.stat().st_size for file in self.cache_folder.glob("*.safetensors"))
        return max(0, needed - there)

    def claim(self) -> list[str]:
        """Make the cache's folder with room for it, and return notes for the user."""
        check_writable(self.root, self.cache_bytes)
        return [*claim_cache(self.root, self.fingerprint), *self.notes]

    def fill(self, processes: Processes = ALONE) -> Steps[None]:
        """Encode what is not encoded yet, this process its part."""
        if not self.needs_latents:
            encode, shard_size = _nothing, None
        elif isinstance(self.pairs, Prompts):
            encode, shard_size = self._generated, GENERATED_SHARD
        else:
            encode, shard_size = self._encoded, None
        return fill_cache(
            self.cache_folder,
            self.pairs,
            encode,
            self.family.encode_prompts,
            self.settings.max_skipped,
            processes=processes,
            shard_size=shard_size,
            look_at=self._cut_notice,
            by_length=self.family.long_prompts == "chunks",
        )

    def notice(self) -> str | None:
        """Return a sentence about captions that lose their end, if there are any.

        It was found while they were encoded; of a stream the first captions are looked at.
        """
        if not self.settings.streaming:
            return read_about(self.cache_folder / INDEX).get("notice")
        numbers = range(min(len(self.pairs), LOOKED_AT))
        return self._cut_notice([c for number in numbers for c in self.pairs.captions(number)])

    def _cut_notice(self, captions: Sequence[str]) -> str | None:
        fix = "shorten them, or set model.long_prompts = 'chunks' to have them read whole"
        return cut_notice(self.family, captions, "caption", fix)

    def cache(self, seed: int, group: int) -> LatentCache:
        """Open the cache for a run with this seed, whose steps see `group` samples each."""
        data = self.settings
        dropout, buffer = data.caption_dropout, data.shuffle_buffer
        cache = open_cache(self.cache_folder, seed, dropout, buffer, group)
        if self.needs_latents:
            return cache
        return replace(cache, latent_shape=tuple(self.family.latent_shape(self.resolution)))

    def stream(self, seed: int, on_skipped: Callable[[str], None]) -> Stream:
        """Return the pairs, encoded at each step; raise SettingError for prompts alone."""
        data = self.settings
        if not self.needs_latents:
            raise SettingError(
                "data.streaming is true, which encodes images at each step, and the method learns "
                "from captions alone: leave data.streaming out"
            )
        if isinstance(self.pairs, Prompts):
            raise SettingError(
                f"data.streaming is true, and {data.path} holds prompts without images: the "
                "teacher would generate each at each step; leave data.streaming out, so that it "
                "does so once"
            )
        order = ordered(self.pairs.parts, seed, data.shuffle_buffer)
        dropout = data.caption_dropout
        return Stream(self.pairs, order, self.family, seed, self.num_views, dropout, on_skipped)

    def batches(self, seed: int, group: int, on_skipped: Callable[[str], None]) -> Batches:
        """Return the cache, or the stream where [data] asks for streaming."""
        is_streaming = self.settings.streaming
        found = self.stream(seed, on_skipped) if is_streaming else self.cache(seed, group)
        return cast(Batches, found)  # their cached properties are no properties to pyright

    def _made_from(self) -> dict[str, Any]:
        data, family = self.settings, self.family
        quantize = quantisation(family.network)
        common = {
            "format": FORMAT,
            "pairs": self.pairs.identity,
            "num_pairs": len(self.pairs),
            "resolution": self.resolution,
            "num_views": self.num_views,
            "seed": data.seed,
            **self.encoders,
        }
        if family.long_prompts != "cut":
            common["long_prompts"] = family.long_prompts
        if not self.needs_latents:
            return common | {"latents": "none", "captions": data.captions}
        if isinstance(self.pairs, Prompts):
            return common | {
                "teacher": family.fingerprint,
                "schedule": family.schedule.digest,
                "prediction": prediction_type(family),
                "teacher_steps": data.teacher_steps,
                "teacher_guidance": self.teacher_guidance,
                "precision": str(family.dtype),
                **({} if quantize == "none" else {"quantize": quantize}),
            }
        names = ("captions", "crop", "buckets", "max_upscale")
        return common | {name: getattr(data, name) for name in names}

    def _encoded(self, numbers: Sequence[int]) -> Iterator[Encoded | ImageError]:
        one_by_one = [(number,) for number in numbers]
        read = read_ahead(
            partial(_image, cast(Pairs, self.pairs)), one_by_one, self.settings.workers
        )
        for number in one_by_one:
            try:
                image = read(number)
            except ImageError as error:
                yield error
            else:
                yield encode_views(self.family.encode_images, image, range(self.num_views))

    def _generated(self, numbers: Sequence[int]) -> Iterator[Encoded]:
        """Let the teacher generate; its latents are certain, so that their deviation is 0."""
        data = self.settings
        sampler = teacher_sampler(self.family, data.teacher_steps, self.teacher_guidance)
        seed = generator(data.seed, "prompts").initial_seed()  # not the noise of evaluation
        for first in range(0, len(numbers), GENERATED_BATCH):
            own = numbers[first : first + GENERATED_BATCH]
            prompts = [self.pairs.captions(number)[0] for number in own]
            generators = numbered_generators(seed, own)
            for latents in sampler.latents(prompts, generators, self.resolution).cpu():
                yield latents[None], torch.zeros_like(latents[None])


def _nothing(numbers: Sequence[int]) -> Iterator[Encoded]:
    """Keep the place of latents that are not needed."""
    for _ in numbers:
        yield torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)


def _encoders(family: ModelFamily) -> dict[str, Any]:
    """Return digests of the weights and settings that decide latents and texts."""
    return {"codec": fingerprint(*family.vae_and_text_encoder), **family.encoding_settings}


def _image(pairs: Pairs, numbers: Sequence[int]) -> Tensor:
    """Decode one image, in a loader process where there are any."""
    return pairs.image(numbers[0])

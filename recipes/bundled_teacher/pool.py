"""Captioned scenes by number, and the pool of them that is encoded once for the denoiser."""

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from rich.progress import track
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import CLIPTokenizer

from fewstep.files import write_file
from fewstep.world.captions import describe
from fewstep.world.scenes import Scene, render, sample_scene
from recipes.bundled_teacher.config import TeacherConfig
from recipes.bundled_teacher.optimising import working_precision
from recipes.bundled_teacher.slots import NUM_QUERY_TOKENS, slots_of_things

STREAMS = {"autoencoder": 1, "pool": 2, "features": 3, "check": 4, "text": 5}


@dataclass(frozen=True)
class Pool:
    """Encoded scenes: latents' means and spreads, [size, channel, height, width], and captions.

    `captions` holds several captions a scene as tokens, [size, caption, length], and `slots` their
    positions and slots of its things, [size, caption, thing, 5], see `slots_of_things`.
    """

    means: Tensor
    spreads: Tensor
    captions: Tensor
    slots: Tensor


def scene_at(seed: int, stream: str, number: int) -> tuple[Scene, np.random.Generator]:
    """Return scene `number` of a stream, and the random numbers that follow for its captions."""
    rng = np.random.default_rng((seed, STREAMS[stream], number))
    return sample_scene(rng), rng


def images(scenes: Iterable[Scene]) -> Tensor:
    """Render scenes as [batch, 3, 64, 64] between -1 and 1, as an autoencoder takes them."""
    stacked = torch.from_numpy(np.stack([render(scene) for scene in scenes]))
    return (stacked.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()


def encode_pool(config: TeacherConfig, run: Path) -> Pool:
    """Render, describe and encode the pool's scenes, shard by shard, and return the whole pool."""
    shards = range(config.pool.size // config.pool.shard)
    missing = [shard for shard in shards if not shard_path(run, shard).exists()]
    if config.pool.workers > 1 and missing:
        with ProcessPoolExecutor(config.pool.workers, get_context("spawn")) as workers:
            jobs = [workers.submit(encode_shard, config, run, shard) for shard in missing]
            for job in track(jobs, "pool"):
                job.result()
    else:
        for shard in track(missing, "pool"):
            encode_shard(config, run, shard)
    parts = [load_file(shard_path(run, shard)) for shard in shards]
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Pool(whole["means"], whole["spreads"], whole["captions"], slots=whole["places"])


def shard_path(run: Path, shard: int) -> Path:
    """Return the file of a shard of the pool."""
    return run / "pool" / f"{shard:05}.safetensors"


@torch.no_grad()
def encode_shard(config: TeacherConfig, run: Path, shard: int) -> None:
    """Encode one shard with the run's autoencoder and tokenizer, and write it."""
    torch.set_num_threads(1)
    autoencoder = AutoencoderKL.from_pretrained(run / "autoencoder").eval()
    tokenizer = CLIPTokenizer.from_pretrained(run / "tokenizer")
    first = shard * config.pool.shard
    means, spreads, captions, slots = [], [], [], []
    for start in range(first, first + config.pool.shard, 50):
        numbers = range(start, min(start + 50, first + config.pool.shard))
        drawn = [scene_at(config.seed, "pool", number) for number in numbers]
        with working_precision(config.autoencoder):
            posterior = autoencoder.encode(images(scene for scene, _ in drawn)).latent_dist
        means.append(posterior.mean.half())
        spreads.append(posterior.std.half())
        described = [
            (scene, describe(scene, rng))
            for scene, rng in drawn
            for _ in range(config.pool.captions)
        ]
        texts = [text for _, text in described]
        of_things = torch.tensor([slots_of_things(scene, text) for scene, text in described])
        slots.append(of_things.unflatten(0, (len(drawn), -1)).half())
        captions.append(tokens(tokenizer, texts).unflatten(0, (len(drawn), -1)).short())
    parts = {"means": means, "spreads": spreads, "captions": captions, "places": slots}
    content = {name: torch.cat(part).contiguous() for name, part in parts.items()}
    write_file(shard_path(run, shard), save(content))


def tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Return the tokens of texts, padded to the tokenizer's length.

    Raises:
        ValueError: a text is so long that it reaches the query tokens.
    """
    encoded = tokenizer(texts, padding="max_length")
    longest = tokenizer.model_max_length - NUM_QUERY_TOKENS
    for text, mask in zip(texts, encoded.attention_mask, strict=True):
        if sum(mask) > longest:
            raise ValueError(f"{text!r} has more than {longest - 2} tokens; raise text.length")
    return torch.tensor(encoded.input_ids)

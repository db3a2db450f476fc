"""`fewstep distill-decoder`: a small decoder learns what the VAE's makes of cached latents."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from itertools import count, islice
from math import cos, pi
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from fewstep.config import Config, DecoderSettings
from fewstep.console import Steps, TaskProgress
from fewstep.data.cache import LatentCache
from fewstep.errors import SettingError, UserError
from fewstep.files import check_writable, write_folder
from fewstep.models.loading import default_device
from fewstep.models.stable_diffusion import StableDiffusion
from fewstep.models.tiny_decoder import (
    TINY_FOLDER,
    decoded,
    default_channels,
    new_decoder,
    with_vae,
    write_decoder,
)
from fewstep.student.generate import check_decoder
from fewstep.student.sample import sample_next
from fewstep.training.artefact import versions
from fewstep.training.prepare import prepared
from fewstep.types import Latents

HELD_OUT = 64
"""The most pairs that are kept from training, for the PSNR."""
WARMUP = 20


@dataclass(frozen=True)
class DistilledDecoder:
    """Where a small decoder lies, and how near its images of held-out latents are to the VAE's."""

    folder: Path
    channels: int
    psnr: float
    """In decibels, of images in [0, 1]: the mean over images."""
    held_out: int
    base: str

    def summary(self) -> str:
        """Return where it is, how good, and the command that samples with it."""
        run = self.folder.parent
        has_student = (run / "artefact").is_dir()
        source, decoder = (run, "tiny") if has_student else (self.base, self.folder)
        return (
            f"wrote {self.folder}: {self.channels} channels, PSNR {self.psnr:.1f} dB to the VAE's "
            f"own images of {self.held_out} held-out latents; "
            f"{sample_next(source, self.base, '--decoder', decoder)}"
        )

    def as_json(self) -> str:
        """Return all of it as JSON."""
        return json.dumps(asdict(self), indent=2, default=str)


def distill_decoder(
    config: Config, run: Path, device: str | None = None, *, force: bool = False
) -> Steps[DistilledDecoder]:
    """Train, while iterated, a decoder for the VAE of a config, and write `RUN/tiny_decoder`.

    The latents are those that a run of the config learns from, encoded first where they are not in
    the cache. `force` starts although the memory does not suffice to encode them.

    Raises:
        UserError: before training, if a setting, the model or the data is at fault; in training, if
            the loss is not finite.
    """
    device, settings = device or default_device(), config.decoder or DecoderSettings()
    check_writable(run)
    dataset, _ = yield from prepared(config, run, device, force=force, for_decoder=True)
    family, cache = with_vae(dataset.family), dataset.cache(config.train.seed, group=1)
    check_decoder(dataset.family)
    if len(cache) < 2:
        raise UserError(
            f"{config.data.path} has one pair alone, and another is kept to measure the decoder by"
        )
    samples = range(min(HELD_OUT, len(cache) // 2))
    held_out = [cache.order.pair(sample) for sample in samples]
    channels = settings.channels or default_channels(family)
    with torch.random.fork_rng():
        torch.manual_seed(config.train.seed)
        decoder = new_decoder(family, channels)
    task = f"training {run.name}'s decoder"
    latents = islice(batches(cache, held_out, settings.batch_size), settings.steps)
    for step, loss in enumerate(train(decoder, family, latents, settings), 1):
        yield TaskProgress(task, step, settings.steps, f"loss {loss:.4f}")
    own = (cache.read([sample]).x_0 for sample in samples)
    psnr = torch.cat([_psnr(decoder, family, x_0) for x_0 in own]).mean().item()
    about = asdict(settings) | {
        "channels": channels, "seed": config.train.seed, "latents": dataset.fingerprint.key,
        "pairs": len(cache), "resolution": dataset.resolution, "psnr": round(psnr, 3),
        "held_out": len(samples),
    }  # fmt: skip
    folder = run / TINY_FOLDER
    write_folder(folder, lambda to: write_decoder(to, decoder, family, about, versions()))
    return DistilledDecoder(folder, channels, psnr, len(samples), config.model.base)


def batches(cache: LatentCache, held_out: Collection[int], batch_size: int) -> Iterator[Latents]:
    """Yield batches of latents of one size without end, of all pairs but those held out."""
    waiting: defaultdict[int, list[int]] = defaultdict(list)
    for sample in count():
        if (pair := cache.order.pair(sample)) in held_out:
            continue
        own = waiting[int(cache.size[pair])]
        own.append(sample)
        if len(own) == batch_size:
            yield cache.read(own).x_0
            own.clear()


def train(
    decoder: nn.Module,
    family: StableDiffusion,
    latents: Iterator[Latents],
    settings: DecoderSettings,
) -> Iterator[float]:
    """Train a decoder to the L1 distance from the VAE's images, and yield the loss of each step.

    Raises:
        SettingError: if the loss is not finite.
    """
    weights = [weight for weight in decoder.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, settings.learning_rate, weight_decay=0.0, fused=True)

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / WARMUP) * (1 + cos(pi * step / settings.steps)) / 2

    schedule = LambdaLR(optimizer, rate)
    for x_0 in latents:
        x_0 = x_0.to(family.device)
        loss = (decoded(decoder, x_0) - family.decode(x_0)).abs().mean()
        if not loss.isfinite():
            raise SettingError(
                f"the decoder's loss is not finite at decoder.learning_rate = "
                f"{settings.learning_rate:g}: lower it"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        yield loss.item()


@torch.no_grad()
def _psnr(decoder: nn.Module, family: StableDiffusion, x_0: Latents) -> Tensor:
    """Return each image's peak signal-to-noise ratio to the VAE's, in decibels."""
    x_0 = x_0.to(family.device)
    error = decoded(decoder, x_0).clamp(0, 1) - family.decode(x_0)
    return -10 * error.square().mean((1, 2, 3)).log10()

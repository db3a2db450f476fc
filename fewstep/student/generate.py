"""Images from prompts: a denoiser, its timesteps and its sampler, of a student or a teacher."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

import torch
from PIL import Image
from torch import Tensor, nn

from fewstep.diffusion.grid import Grid
from fewstep.diffusion.guidance import guided
from fewstep.diffusion.prediction import Prediction
from fewstep.diffusion.random import Draw
from fewstep.errors import UserError
from fewstep.models.base import ModelFamily
from fewstep.student.contract import Contract
from fewstep.student.samplers import SAMPLERS, last
from fewstep.student.seeds import image_generators
from fewstep.types import Denoiser, Latents, PredictedTrajectory

TEACHER_STEPS = 50
"""In how many steps a teacher is sampled by default."""

BATCH = 64
"""Images that are generated, or decoded, at a time."""


@dataclass(frozen=True)
class ImageSampler:
    """A denoiser with its timesteps and its sampler: everything that turns prompts into images.

    An image is a function of its prompt and its generator, whatever its batch; all samplers of one
    family start the same generator from the same noise. `nfe` is the network evaluations an image.
    """

    family: ModelFamily
    denoiser: Denoiser[PredictedTrajectory]
    timesteps: Sequence[int]
    sampler: str
    nfe: int

    @torch.no_grad()
    def latents(
        self,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        height: int,
        width: int | None = None,
        batch_size: int = BATCH,
        *,
        x_0: Latents | None = None,
    ) -> Latents:
        """Return the clean latents of one image a prompt, each from its generator's noise.

        `height` and `width` are in pixels, `width` that of a square by default. With `x_0`, the
        latents of one image, they start from it under noise: image-to-image.

        Raises:
            UserError: if latents are not finite.
        """
        batches = []
        for first in range(0, len(prompts), batch_size):
            batch = slice(first, first + batch_size)
            steps = self.trajectory(prompts[batch], generators[batch], height, width, x_0=x_0)
            batches.append(last(steps))
        return finite_latents(torch.cat(batches))

    @torch.no_grad()
    def trajectory(
        self,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        height: int,
        width: int | None = None,
        *,
        x_0: Latents | None = None,
    ) -> Iterator[Latents]:
        """Yield what `latents` starts from and then every x_s, the clean latents last."""
        schedule, shape = self.family.schedule, self.family.latent_shape(height, width)
        device = schedule.alphas.device
        cond, draw = self.family.encode_prompts(prompts), Draw(generators, device)
        x_t = draw.noise_like(torch.empty(len(draw.generators), *shape))
        if x_0 is not None:
            t = torch.full((len(x_t),), self.timesteps[0], device=device)
            x_t = schedule.add_noise(x_0.expand_as(x_t), x_t, t)
        yield x_t
        sample = SAMPLERS[self.sampler]
        yield from sample(self.denoiser, x_t, self.timesteps, cond, schedule, draw)

    def decode(self, latents: Latents, batch_size: int = BATCH) -> Tensor:
        """Return images as uint8 [batch, H, W, 3].

        Raises:
            UserError: if they are not finite.
        """
        parts = (finite_images(self.family.decode(part)) for part in latents.split(batch_size))
        images = torch.cat([(part * 255).round().to(torch.uint8).cpu() for part in parts])
        return images.permute(0, 2, 3, 1)

    def generate(
        self, prompts: Sequence[str], seed: int, height: int, width: int | None = None
    ) -> list[Image.Image]:
        """Return one image a prompt; image i has seed + i."""
        generators = image_generators(seed, len(prompts))
        images = self.decode(self.latents(prompts, generators, height, width))
        return [Image.fromarray(image.numpy()) for image in images]

    def with_strength(self, strength: float) -> "ImageSampler":
        """Return the sampler that takes the last `strength` of the steps, as diffusers counts them.

        Raises:
            UserError: if strength is not in (0, 1], or too small for one step.
        """
        total = len(self.timesteps)
        kept = int(total * strength) if 0 < strength <= 1 else 0
        if not kept:
            least = ceil(1000 / total) / 1000
            raise UserError(
                f"strength is {strength}; of {total} steps it has to keep one or more: use "
                f"{least:g} to 1"
            )
        return replace(self, timesteps=self.timesteps[-kept:], nfe=self.nfe // total * kept)


def finite_latents(latents: Latents) -> Latents:
    """Return latents; raise a UserError if they are not finite."""
    if not latents.isfinite().all():
        raise UserError(
            "the model gave latents that are not finite; use precision fp32 or bf16, and "
            "check the weights that were trained"
        )
    return latents


def finite_images(images: Tensor) -> Tensor:
    """Return images; raise a UserError if they are not finite, which would be written as black."""
    if not images.isfinite().all():
        raise UserError(
            "the VAE's decoder gave images that are not finite; check its weights, or use another "
            "VAE"
        )
    return images


def check_decoder(family: ModelFamily) -> None:
    """Decode one small image, before any work; raise a UserError if it is not finite."""
    shape = family.latent_shape(family.image_divisor)
    finite_images(family.decode(torch.zeros(1, *shape, device=family.schedule.alphas.device)))


def teacher_nfe(num_steps: int, guidance_scale: float) -> int:
    """Return the network evaluations an image of the teacher: with guidance two a step."""
    return num_steps if guidance_scale == 1 else 2 * num_steps


def teacher_sampler(
    family: ModelFamily,
    num_steps: int,
    guidance_scale: float,
    denoiser: Denoiser[Prediction] | None = None,
    spacing: str = "uniform",
    negative_prompt: str = "",
) -> ImageSampler:
    """Return the undistilled model, or `denoiser`, under guided DDIM from the noisiest timestep."""
    denoiser = denoiser or family.denoiser(family.network)
    grid = Grid(num_steps, 1, spacing, family.schedule.num_train_timesteps)
    return ImageSampler(
        family,
        guided(denoiser, family.encode_prompts([negative_prompt]), guidance_scale),
        grid.trailing,
        "deterministic",
        teacher_nfe(num_steps, guidance_scale),
    )


def student_sampler(
    family: ModelFamily, contract: Contract, network: nn.Module, num_steps: int | None = None
) -> ImageSampler:
    """Return the student's network at the timesteps of its contract."""
    timesteps = contract.timesteps(num_steps)
    denoiser = family.denoiser(network)
    return ImageSampler(family, denoiser, timesteps, contract.sampler, len(timesteps))

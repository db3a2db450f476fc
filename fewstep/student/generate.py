"""Images from prompts: a denoiser, its timesteps and its sampler, of a student or a teacher."""

from collections.abc import Callable, Sequence
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
from fewstep.student.samplers import SAMPLERS
from fewstep.types import Denoiser, Landing, Latents

TEACHER_STEPS, TEACHER_GUIDANCE = 50, 4.0
"""How a teacher is sampled where nothing else is said."""


@dataclass(frozen=True)
class ImageSampler:
    """A denoiser with its timesteps and its sampler: everything that makes an image of a prompt.

    An image is a function of (prompt, seed, number) and not of the batch that it is made in;
    samplers of one family start the same (seed, number) from the same noise.
    """

    family: ModelFamily
    denoiser: Denoiser[Landing]
    timesteps: Sequence[int]
    sampler: str
    calls: int

    @torch.no_grad()
    def latents(
        self,
        prompts: Sequence[str],
        seed: int,
        resolution: int,
        numbers: Sequence[int] | None = None,
        batch_size: int = 64,
        advance: Callable[[int], None] = lambda count: None,
        x_0: Latents | None = None,
    ) -> Latents:
        """Return the clean latents of one image a prompt.

        With `x_0`, one row or one a prompt, they start from these latents under noise instead of
        from noise alone: image-to-image.
        """
        numbers = range(len(prompts)) if numbers is None else numbers
        shape = self.family.latent_shape(resolution)
        device = self.family.schedule.alphas.device
        batches = []
        for first in range(0, len(prompts), batch_size):
            chosen = slice(first, first + batch_size)
            cond = self.family.encode_prompts(prompts[chosen])
            draw = Draw.keyed(seed, numbers[chosen], device, purpose="paint")
            x_t = draw.noise_like(torch.empty(len(draw.generators), *shape))
            if x_0 is not None:
                clean = x_0.expand(len(prompts), *shape)[chosen]
                t = torch.full((len(x_t),), self.timesteps[0], device=device)
                x_t = self.family.schedule.add_noise(clean, x_t, t)
            batches.append(
                SAMPLERS[self.sampler](
                    self.denoiser, x_t, self.timesteps, cond, self.family.schedule, draw
                )
            )
            advance(len(x_t))
        latents = torch.cat(batches)
        if not latents.isfinite().all():
            raise UserError(
                "the model gave latents that are not finite; use precision fp32 or bf16, and "
                "check the weights that were trained"
            )
        return latents

    def decode(self, latents: Latents, batch_size: int = 64) -> Tensor:
        """Return images as uint8 [batch, H, W, 3]."""
        parts = (self.family.decode(part) for part in latents.split(batch_size))
        whole = torch.cat([(part * 255).round().to(torch.uint8).cpu() for part in parts])
        return whole.permute(0, 2, 3, 1)

    def generate(self, prompts: Sequence[str], seed: int, resolution: int) -> list[Image.Image]:
        """Return one image a prompt."""
        images = self.decode(self.latents(prompts, seed, resolution))
        return [Image.fromarray(image.numpy()) for image in images]

    def entering_at(self, strength: float) -> "ImageSampler":
        """Return the sampler that makes the last of the calls, as many as `strength` is of all.

        The calls stay on the student's own grid; diffusers counts them in the same way.

        Raises:
            UserError: if strength is not in (0, 1], or too small for one call.
        """
        total = len(self.timesteps)
        kept = int(total * strength) if 0 < strength <= 1 else 0
        if not kept:
            least = ceil(1000 / total) / 1000
            raise UserError(
                f"strength is {strength}; of {total} steps it has to keep one or more: use "
                f"{least:g} to 1"
            )
        calls = self.calls // total * kept
        return replace(self, timesteps=self.timesteps[total - kept :], calls=calls)


def teacher_calls(num_steps: int, guidance_scale: float) -> int:
    """Return how often an image of the teacher asks the network: with guidance twice a step."""
    return num_steps if guidance_scale == 1 else 2 * num_steps


def teacher_sampler(
    family: ModelFamily,
    num_steps: int,
    guidance_scale: float,
    denoiser: Denoiser[Prediction] | None = None,
    spacing: str = "uniform",
) -> ImageSampler:
    """Return the undistilled model under plain guided DDIM, from the noisiest timestep on.

    With guidance each step asks the network twice. `denoiser` stands in for the family's network.
    """
    denoiser = denoiser or family.denoiser(family.network)
    uncond = family.encode_prompts([""])
    starts = Grid(num_steps, 1, spacing, family.schedule.num_train_timesteps).trailing
    return ImageSampler(
        family=family,
        denoiser=guided(denoiser, uncond, guidance_scale),
        timesteps=starts,
        sampler="deterministic",
        calls=teacher_calls(num_steps, guidance_scale),
    )


def student_sampler(
    family: ModelFamily,
    contract: Contract,
    network: nn.Module,
    num_steps: int | None = None,
) -> ImageSampler:
    """Return the student's network at the timesteps of its contract."""
    timesteps = contract.timesteps(num_steps)
    return ImageSampler(
        family=family,
        denoiser=family.denoiser(network),
        timesteps=timesteps,
        sampler=contract.grid.sampler,
        calls=len(timesteps),
    )

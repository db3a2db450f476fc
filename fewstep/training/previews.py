"""Images during training: the student's beside the teacher's 50 steps, from the same noise."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fewstep.files import write_file
from fewstep.images import grid, png
from fewstep.student.generate import TEACHER_STEPS, ImageSampler, teacher_sampler
from fewstep.training.contract import contract_of
from fewstep.training.setup import Workshop


@dataclass(frozen=True)
class Previews:
    """Draws `RUN/previews/<step>.png`; without preview prompts the first captions serve."""

    shop: Workshop

    def draw_if_due(self, step: int) -> Path | None:
        """Draw at every `preview_every` steps and at the last; return the image's path."""
        every = self.shop.config.train.preview_every
        if every and (step % every == 0 or step == self.shop.config.train.steps):
            with self.shop.codec_at_work():
                return self.draw(step)
        return None

    def draw(self, step: int) -> Path:
        """Generate every preview prompt by the averaged student as it is now."""
        _, method = self.shop.named_method
        contract = contract_of(self.shop)
        timesteps = contract.timesteps()
        student = ImageSampler(
            self.shop.family, self.shop.roles.ema, timesteps, method.sampler, len(timesteps)
        )
        columns = {
            f"teacher, {TEACHER_STEPS} steps": self._teacher,
            f"{contract.method['name']}, {len(timesteps)} steps": self._generate(student),
        }
        path = self.shop.run / "previews" / f"{step:08d}.png"
        write_file(path, png(grid(columns, self._prompts)))
        return path

    @cached_property
    def _prompts(self) -> list[str]:
        chosen = list(self.shop.config.train.preview_prompts)
        return chosen or [
            self.shop.pairs.captions(i)[0] for i in range(min(4, len(self.shop.pairs)))
        ]

    @cached_property
    def _teacher(self) -> NDArray[np.uint8]:
        shop = self.shop
        sampler = teacher_sampler(
            shop.family, TEACHER_STEPS, shop.guidance_scale, shop.roles.teacher
        )
        return self._generate(sampler)

    def _generate(self, sampler: ImageSampler) -> NDArray[np.uint8]:
        network = self.shop.roles.network.eval()
        latents = sampler.latents(self._prompts, seed=0, resolution=self.shop.resolution)
        images = sampler.decode(latents)
        network.train()
        return images.numpy()

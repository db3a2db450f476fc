"""Images during training: the student's beside the teacher's 50 steps, from the same noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fewstep.files import write_file
from fewstep.images import grid, png
from fewstep.student.generate import TEACHER_STEPS, ImageSampler, teacher_sampler
from fewstep.student.seeds import image_generators
from fewstep.training.artefact import contract_of
from fewstep.training.setup import Components


@dataclass(frozen=True)
class Previews:
    """Writes `RUN/previews/<step>.png`; without preview prompts it uses the first captions.

    Image i has seed i.
    """

    components: Components

    @property
    def path(self) -> Path:
        """Where the preview of the last step that was taken belongs."""
        return self.components.run / "previews" / f"{self.components.state.step:08d}.png"

    def draw_if_due(self) -> Path | None:
        """Draw every `preview_every` steps and at the last; return the image's path."""
        train, step = self.components.config.train, self.components.state.step
        if train.preview_every and (step % train.preview_every == 0 or step == train.steps):
            with self.components.vae_and_text_encoder_on_device():
                return self.draw()
        return None

    def draw(self) -> Path:
        """Generate the preview prompts by the averaged student as it is now."""
        parts, student = self.components, averaged_student(self.components)
        name = parts.config.method["name"]
        columns = {
            f"teacher, {TEACHER_STEPS} steps": self._teacher_images,
            f"{name}, {len(student.timesteps)} steps": self._generate(student),
        }
        write_file(self.path, png(grid(columns, self._prompts)))
        return self.path

    @cached_property
    def _prompts(self) -> list[str]:
        pairs = self.components.dataset.pairs
        first = [pairs.captions(number)[0] for number in range(min(4, len(pairs)))]
        return list(self.components.config.train.preview_prompts) or first

    @cached_property
    def _teacher_images(self) -> NDArray[np.uint8]:
        return self._generate(guided_teacher(self.components))

    def _generate(self, sampler: ImageSampler) -> NDArray[np.uint8]:
        return sampler.decode(latents_of(self.components, sampler, self._prompts)).numpy()


def averaged_student(components: Components) -> ImageSampler:
    """Return the sampler of the averaged student as it is at the time of each call."""
    timesteps = contract_of(components).timesteps()
    return ImageSampler(
        components.family,
        components.roles.ema,
        timesteps,
        components.method.sampler,
        len(timesteps),
    )


def guided_teacher(components: Components) -> ImageSampler:
    """Return the sampler of the teacher in its full number of steps."""
    return teacher_sampler(
        components.family, TEACHER_STEPS, components.guidance_scale, components.roles.teacher
    )


def latents_of(components: Components, sampler: ImageSampler, prompts: Sequence[str]) -> Tensor:
    """Return the latents of the prompts' images, in evaluation mode; image i has seed i."""
    network = components.roles.network.eval()
    try:
        return sampler.latents(
            prompts, image_generators(0, len(prompts)), components.resolution, batch_size=16
        )
    finally:
        network.train()

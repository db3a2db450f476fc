"""Images decide when a run stops: their diversity and contrast beside the teacher's.

A loss says nothing of modes that are lost, or of colours that grow too strong. Matching under
guidance has both as its end; the student to keep is one from before.
"""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save

from fewstep.config import StopSettings
from fewstep.errors import UserError
from fewstep.evaluation.metrics.pairs import std_ratio
from fewstep.evaluation.metrics.two_sets import pairwise_distance
from fewstep.files import write_file
from fewstep.student.generate import ImageSampler
from fewstep.training.previews import averaged_student, guided_teacher, latents_of
from fewstep.training.setup import Components

TEACHER, PASSED, STOPPED = "stop-teacher.safetensors", "passed.safetensors", "stopped.json"
"""Files of a run: the teacher's latents, the averaged weights that passed last, and its end."""


@dataclass(frozen=True)
class Stopped:
    """A run that its images stopped at `step`, the student that it `kept` and why."""

    step: int
    kept: int
    reason: str

    @classmethod
    def read(cls, run: Path) -> "Stopped | None":
        """Return how a run was stopped, if it was."""
        path = run / STOPPED
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    def __str__(self) -> str:
        return (
            f"stopped at step {self.step}: {self.reason}; the student is that of step {self.kept}"
        )


@dataclass(frozen=True)
class ImageMonitor:
    """Measures the averaged student's images during training, and stops the run."""

    components: Components

    def check_if_due(self) -> dict[str, float]:
        """Return `diversity` and `contrast` at the steps that have them; keep, or stop.

        Raises:
            UserError: if no check passed before one that fails.
        """
        stop, step = self.components.config.stop, self.components.state.step
        if stop is None or (step % stop.every and step != self.components.config.train.steps):
            return {}
        numbers = compared(self._latents(averaged_student(self.components)), self._teacher, stop)
        if reason := why_to_stop(numbers, stop):
            self._stop(reason)
        else:
            averaged = {
                name: weight.detach().cpu().contiguous()
                for name, weight in self.components.roles.averaged.items()
            }
            write_file(self._run / PASSED, save(averaged, {"step": str(step)}))
        return numbers

    def _stop(self, reason: str) -> None:
        step, path = self.components.state.step, self._run / PASSED
        if not path.is_file():
            raise UserError(
                f"the first check of the student's images, at step {step}, fails: {reason}. "
                "There is no student to keep; check earlier (stop.every), lower "
                "train.learning_rate, or loosen stop.min_diversity or stop.max_contrast"
            )
        with safe_open(path, "pt") as file:
            kept = int(file.metadata()["step"])
        stopped = Stopped(step, kept, reason)
        write_file(self._run / STOPPED, json.dumps(asdict(stopped)))

    @property
    def _run(self) -> Path:
        return self.components.run

    @cached_property
    def _teacher(self) -> NDArray[np.float32]:
        """The teacher's latents, which are made once a run."""
        path = self._run / TEACHER
        if not path.is_file():
            latents = torch.from_numpy(self._latents(guided_teacher(self.components)))
            write_file(path, save({"latents": latents}))
        return load_file(path)["latents"].numpy()

    def _latents(self, sampler: ImageSampler) -> NDArray[np.float32]:
        """Return the latents of all images, those of one prompt one after another."""
        stop, pairs = self.components.config.stop or StopSettings(), self.components.dataset.pairs
        first = [pairs.captions(number)[0] for number in range(min(stop.num_prompts, len(pairs)))]
        prompts = [prompt for prompt in first for _ in range(stop.num_images)]
        with self.components.vae_and_text_encoder_on_device():
            return latents_of(self.components, sampler, prompts).float().cpu().numpy()


def compared(
    latents: NDArray[np.float32], teacher: NDArray[np.float32], stop: StopSettings
) -> dict[str, float]:
    """Return diversity and contrast of latents [prompts * images, …], the teacher's being 1.

    Diversity is the mean distance between two images of a prompt; contrast the spread within a
    channel, mean over channels and images.
    """
    ours, theirs = (
        pairwise_distance(x.reshape(-1, stop.num_images, x[0].size)).mean()
        for x in (latents, teacher)
    )
    contrast = std_ratio(latents, teacher).mean()
    return {"diversity": float(ours / max(theirs, 1e-12)), "contrast": float(contrast)}


def why_to_stop(numbers: dict[str, float], stop: StopSettings) -> str:
    """Return which number is out of bounds, or nothing.

    >>> why_to_stop({"diversity": 0.75, "contrast": 1.0}, StopSettings())
    "the images' diversity is 0.750 of the teacher's, below stop.min_diversity = 0.8"
    """
    diversity, contrast = numbers["diversity"], numbers["contrast"]
    if diversity < stop.min_diversity:
        bound = f"below stop.min_diversity = {stop.min_diversity:g}"
        return f"the images' diversity is {diversity:.3f} of the teacher's, {bound}"
    if contrast > stop.max_contrast:
        bound = f"above stop.max_contrast = {stop.max_contrast:g}"
        return f"the images' contrast is {contrast:.3f} of the teacher's, {bound}"
    return ""


def take_back(components: Components) -> Stopped | None:
    """Give a run that was stopped the averaged weights that passed last; return how it ended."""
    if stopped := Stopped.read(components.run):
        with torch.no_grad():
            for name, value in load_file(components.run / PASSED).items():
                components.roles.averaged[name].copy_(value)
    return stopped

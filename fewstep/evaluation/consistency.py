"""The self-consistency residual of a student, along its own teacher's trajectories."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fewstep.diffusion.grid import Grid
from fewstep.diffusion.random import Draw
from fewstep.evaluation.intervals import Values
from fewstep.evaluation.metrics.self_consistency import residuals
from fewstep.evaluation.models import EvaluatedModel, EvaluationSet, Student
from fewstep.files import kept

NUM_PROMPTS, NUM_STEPS = 32, 20


def self_consistency(
    evaluation: EvaluationSet, student: Student, prompts: Sequence[str], folder: Path, seed: int = 0
) -> Values:
    """Return the residual of each of the first prompts, from the noise that images start from.

    For a student that learns from data alone the trajectory is the unguided teacher's.
    """
    model = evaluation.student(student)
    teacher = evaluation.teacher(guided=model.has_teacher)
    chosen = list(prompts[:NUM_PROMPTS])
    key = repr([model.identity, teacher.identity, chosen, seed, evaluation.resolution, NUM_STEPS])
    path = folder / f"consistency-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    return np.array(
        kept(path, lambda: measured(evaluation, student, teacher, chosen, seed).tolist())
    )


def measured(
    evaluation: EvaluationSet, student: Student, teacher: EvaluatedModel, prompts: Sequence[str],
    seed: int,
) -> torch.Tensor:  # fmt: skip
    family, contract = evaluation.family, student.contract
    boundaries = contract.grid.boundaries
    whole = Grid(1, 1, contract.grid.spacing, family.schedule.num_train_timesteps)
    num_steps = min(max(NUM_STEPS, 2 * len(boundaries)), whole.most_steps)  # two in each segment
    device = family.schedule.alphas.device
    like = torch.empty(len(prompts), *family.latent_shape(evaluation.resolution))
    return residuals(
        evaluation.student(student).sampler().denoiser,
        teacher.sampler().denoiser,
        Draw.keyed(seed, range(len(prompts)), device, purpose="paint").noise_like(like),
        whole.cut(num_steps),
        boundaries,
        family.encode_prompts(prompts),
    )

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
from fewstep.evaluation.models import Contestant, Field, Student
from fewstep.files import kept

NUM_PROMPTS, NUM_STEPS = 32, 20


def self_consistency(
    field: Field, student: Student, prompts: Sequence[str], folder: Path, seed: int = 0
) -> Values:
    """Return the residual for each of the first prompts, from the noise that images start from.

    A student that learnt from data alone is held against the unguided teacher.
    """
    contestant = field.student(student)
    teacher = field.teacher(guided=contestant.knows_teacher)
    chosen = list(prompts[:NUM_PROMPTS])
    key = repr([contestant.identity, teacher.identity, chosen, seed, field.resolution, NUM_STEPS])
    path = folder / f"consistency-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    found = kept(path, lambda: measured(contestant, teacher, field, student, chosen, seed).tolist())
    return np.array(found, np.float64)


def measured(
    contestant: Contestant, teacher: Contestant, field: Field, student: Student,
    prompts: list[str], seed: int,
) -> torch.Tensor:  # fmt: skip
    family, contract = field.family, student.contract
    boundaries = contract.grid.boundaries
    whole = Grid(1, 1, contract.grid.spacing, family.schedule.num_train_timesteps)
    num_steps = min(max(NUM_STEPS, 2 * len(boundaries)), whole.most_steps)  # two in each segment
    device = family.schedule.alphas.device
    like = torch.empty(len(prompts), *family.latent_shape(field.resolution))
    return residuals(
        contestant.sampler().denoiser,
        teacher.sampler().denoiser,
        Draw.keyed(seed, range(len(prompts)), device, purpose="paint").noise_like(like),
        whole.cut(num_steps),
        boundaries,
        family.encode_prompts(prompts),
    )

"""The self-consistency residual of a student, along its own teacher's trajectories."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fewstep.diffusion.grid import knots, most_steps
from fewstep.diffusion.random import Draw
from fewstep.evaluation.intervals import Values
from fewstep.evaluation.metrics.self_consistency import residuals
from fewstep.evaluation.models import Contestant, Field, Student
from fewstep.files import kept

NUM_PROMPTS, NUM_KNOTS = 32, 20


def self_consistency(
    field: Field, student: Student, prompts: Sequence[str], folder: Path, seed: int = 0
) -> Values:
    """Return the residual for each of the first prompts, from the noise that pictures start from.

    A student that learnt from data alone is held against the unguided teacher.
    """
    contestant = field.student(student)
    teacher = field.teacher(guided=contestant.knows_teacher)
    chosen = list(prompts[:NUM_PROMPTS])
    key = repr([contestant.identity, teacher.identity, chosen, seed, field.resolution, NUM_KNOTS])
    path = folder / f"consistency-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    found = kept(path, lambda: measured(contestant, teacher, field, student, chosen, seed).tolist())
    return np.array(found, np.float64)


def measured(
    contestant: Contestant, teacher: Contestant, field: Field, student: Student,
    prompts: list[str], seed: int,
) -> torch.Tensor:  # fmt: skip
    family, contract = field.family, student.contract
    boundaries = contract.grid.boundaries
    most = most_steps(family.schedule.num_train_timesteps, contract.spacing)
    num_knots = min(max(NUM_KNOTS, 2 * len(boundaries)), most)  # two in each segment
    device = family.schedule.alphas.device
    like = torch.empty(len(prompts), *family.latent_shape(field.resolution))
    return residuals(
        contestant.painter().denoiser,
        teacher.painter().denoiser,
        Draw.keyed(seed, range(len(prompts)), device, purpose="paint").noise_like(like),
        knots(num_knots, family.schedule.num_train_timesteps, contract.spacing),
        boundaries,
        family.encode_prompts(prompts),
    )

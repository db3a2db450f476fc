"""Does a student jump to one point from all along its teacher's trajectory?

The trajectory starts from the noise that images start from. No image is needed, and no other
network.
"""

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from fewstep.diffusion.grid import Grid
from fewstep.diffusion.random import Draw
from fewstep.diffusion.schedule import CLEAN
from fewstep.diffusion.solvers import ddim
from fewstep.evaluation.intervals import Values
from fewstep.evaluation.models import EvaluatedModel
from fewstep.files import kept
from fewstep.student.generate import ImageSampler
from fewstep.student.seeds import numbered_generators
from fewstep.types import Conditioning, Denoiser, Latents, PerSample, PredictedTrajectory

NUM_PROMPTS, NUM_STEPS, SEED = 32, 20, 0


def self_consistency(
    model: EvaluatedModel, grid: Grid, prompts: Sequence[str], resolution: int, folder: Path
) -> Values:
    """Return the residual of each of the first prompts for a student with this grid.

    It is kept in `folder`. For a student that learns from data alone the trajectory is the unguided
    teacher's.
    """
    teacher = model.compared_with("unguided teacher") or model.references["teacher"]
    chosen = list(prompts[:NUM_PROMPTS])
    key = repr([model.identity, teacher.identity, chosen, SEED, resolution, NUM_STEPS])
    path = folder / f"consistency-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"

    def measure() -> list[float]:
        return measured(model.sampler(), teacher.sampler(), grid, chosen, resolution).tolist()

    return np.array(kept(path, measure))


def measured(
    student: ImageSampler, teacher: ImageSampler, grid: Grid, prompts: Sequence[str],
    resolution: int,
) -> PerSample:  # fmt: skip
    """Return the residual of each prompt, [prompts], for images of `resolution` pixels."""
    family, boundaries = student.family, grid.boundaries
    whole = Grid(1, 1, grid.spacing, family.schedule.num_train_timesteps)
    num_steps = min(max(NUM_STEPS, 2 * len(boundaries)), whole.most_steps)  # two in each segment
    generators = numbered_generators(SEED, range(len(prompts)))
    like = torch.empty(len(prompts), *family.latent_shape(resolution))
    return residuals(
        student.denoiser,
        teacher.denoiser,
        Draw(generators, family.schedule.alphas.device).noise_like(like),
        whole.cut(num_steps),
        boundaries,
        family.encode_prompts(prompts),
    )


@torch.no_grad()
def residuals(
    student: Denoiser[PredictedTrajectory],
    teacher: Denoiser[PredictedTrajectory],
    x_t: Latents,
    timesteps: Sequence[int],
    boundaries: Sequence[int],
    cond: Conditioning,
) -> PerSample:
    """Return for each sample the RMS of f(x_t; t → end) - f(x_s; s → end) along the trajectory.

    `x_t` is noise at the noisiest of `timesteps`; `boundaries` are the segments' lower ends, CLEAN
    among them. Neighbours that end on different boundaries are not compared, nor is s = end, where
    the student is the identity and the teacher's step alone decides.

    Source: Song et al. 2023 (Consistency Models), definition 1; Starodubcev et al. 2024, eq. 6.

    Raises:
        ValueError: if no two neighbours share a segment.
    """
    squares, count = torch.zeros(len(x_t), device=x_t.device), 0
    before: tuple[int, Latents] | None = None
    for t, s in pairwise([*sorted({*timesteps} - {CLEAN}, reverse=True), CLEAN]):
        end = max(boundary for boundary in boundaries if boundary < t)
        whole = torch.full((len(x_t),), t, device=x_t.device)
        jump = ddim(student, x_t, whole, torch.full_like(whole, end), cond)
        if before is not None and before[0] == end:
            squares += (jump - before[1]).float().square().flatten(1).mean(1)
            count += 1
        before = end, jump
        x_t = ddim(teacher, x_t, whole, torch.full_like(whole, s), cond)
    if not count:
        raise ValueError(f"no two of the timesteps {sorted(timesteps)} lie in one segment")
    return (squares / count).sqrt()

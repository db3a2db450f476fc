"""Does a student jump to one point from all along the teacher's trajectory?

The trajectory starts from the noise that images start from. No image is needed, and no other
network.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch

from fewstep.diffusion.schedule import CLEAN
from fewstep.diffusion.solvers import ddim
from fewstep.types import Conditioning, Denoiser, Latents, PerSample, PredictedTrajectory


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

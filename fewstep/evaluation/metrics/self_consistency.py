"""Does a student land on one point from all along a trajectory? Its promise, put to the test.

The trajectory is the teacher's own, from the noise that images start from; at two neighbours of
it the student is asked where its segment ends. No image is needed, and no other network.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch

from fewstep.diffusion.schedule import CLEAN
from fewstep.diffusion.solvers import ddim
from fewstep.evaluation.metrics.base import Metric
from fewstep.evaluation.metrics.same_noise import rmse
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
        landed = ddim(student, x_t, whole, torch.full_like(whole, end), cond)
        if before is not None and before[0] == end:
            squares += (landed - before[1]).float().square().flatten(1).mean(1)
            count += 1
        before = end, landed
        x_t = ddim(teacher, x_t, whole, torch.full_like(whole, s), cond)
    if not count:
        raise ValueError(f"no two of the timesteps {sorted(timesteps)} lie in one segment")
    return (squares / count).sqrt()


SELF_CONSISTENCY = Metric(
    rmse,
    "Self-consistency residual",
    "how far apart the student lands from neighbouring points of the teacher's trajectory, root "
    "mean square in latents; 0 would be a perfect consistency model",
    "lower",
    ".4f",
    of="trajectory",
)
STEP_AGREEMENT = Metric(
    rmse,
    "Distance to its most steps",
    "distance of the latents to those that the same student makes in its largest number of steps "
    "from the same noise",
    "lower",
    of="latents",
    against="most steps",
)

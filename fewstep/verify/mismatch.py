"""What it costs to sample a perfect student at other timesteps than it was trained for."""

from collections.abc import Sequence

from fewstep.diffusion.grid import Grid
from fewstep.diffusion.random import generator
from fewstep.diffusion.schedule import CLEAN
from fewstep.student.samplers import deterministic, last, stochastic
from fewstep.verify.distances import energy_distance, same_noise
from fewstep.verify.effort import Effort, Track
from fewstep.verify.perfect import perfect_student
from fewstep.verify.students import BatchDraw
from fewstep.verify.world import (
    PLANE,
    SCHEDULE,
    TOP,
    any_class,
    denoiser_on,
    everywhere,
    exact_flow,
    start,
)

OURS = Grid(40, 4).boundaries
ICD = (0, 259, 519, 779)
PCM = (0, 239, 499, 739)
TRAILING = Grid(4).trailing
LCM = (999, 759, 499, 259)

PAIRS: dict[str, tuple[Sequence[int] | None, Sequence[int]]] = {
    "matched: our boundaries, trailing": (OURS, TRAILING),
    "iCD's boundaries, LCMScheduler": (ICD, LCM),
    "iCD's boundaries, trailing": (ICD, TRAILING),
    "PCM's edges, trailing": (PCM, TRAILING),
    "one segment, four DDIM steps": ((CLEAN,), TRAILING),
    "no student: teacher, DDIM-4": (None, TRAILING),
    "no student: teacher, DDIM-50": (None, Grid(50).trailing),
}
"""The lower ends of the student's segments, and where the sampler starts its steps."""

STOCHASTIC = "one segment, four stochastic steps"


def measure_mismatch(effort: Effort, track: Track) -> dict:
    """Return for each pair the distances to the exact flow, in units of the data's RMS."""
    flow = exact_flow()
    x, cond = start(any_class(2 * effort.num_samples), generator("mismatch"))
    truth = flow(x, everywhere(TOP, x), cond).at(everywhere(CLEAN, x))
    y, _ = start(any_class(2 * effort.num_samples), generator("mismatch", "reference"))
    reference = flow(y, everywhere(TOP, y), cond).at(everywhere(CLEAN, y))

    samples = {}
    for name, (ends, timesteps) in track(list(PAIRS.items()), description="sampler mismatch"):
        denoiser = denoiser_on(SCHEDULE) if ends is None else perfect_student(flow, ends)
        samples[name] = last(deterministic(denoiser, x, timesteps, cond))
    draw = BatchDraw((generator("mismatch", "stochastic"),))
    samples[STOCHASTIC] = last(stochastic(flow, x, TRAILING, cond, SCHEDULE, draw))
    return {
        name: {
            "same_noise": same_noise(points, truth) / PLANE.rms,
            "energy": energy_distance(points, reference) / PLANE.rms,
        }
        for name, points in samples.items()
    }

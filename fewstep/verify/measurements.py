"""The errors that need no network: the solver's, the objective's and the sampler's."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from fewstep.diffusion.grid import Grid
from fewstep.diffusion.prediction import Prediction
from fewstep.diffusion.random import generator
from fewstep.diffusion.schedule import CLEAN, NoiseSchedule
from fewstep.diffusion.solvers import SOLVERS, Solver
from fewstep.student.samplers import deterministic, last, stochastic
from fewstep.types import Conditioning, Denoiser, Latents, PerSample
from fewstep.verify.distances import energy_distance, same_noise
from fewstep.verify.effort import Effort, Track
from fewstep.verify.exact_flow import perfect_student
from fewstep.verify.fixed_points import Distillation, Training, TrueMap, fixed_point
from fewstep.verify.students import BatchDraw
from fewstep.verify.world import (
    PLANE,
    SCHEDULE,
    TOP,
    any_class,
    denoiser_on,
    every_class,
    everywhere,
    exact_flow,
    start,
    to_clean,
)  # fmt: skip

BOUNDARY = Grid(40, 4).boundaries[1]
"""The lowest of four segments' inner boundaries; above it the noise level is smooth in t."""

OBJECTIVES = {
    "CD": (Distillation(), 1),
    "CT, squared error": (Training(), 1),
    "CT, squared error, four segments": (Training(), 4),
    "CT, pseudo-Huber c = 0.1": (Training(huber_c=0.1), 1),
    "CT, pseudo-Huber c = 0.03": (Training(huber_c=0.03), 1),
    "CT, pseudo-Huber c = 0.03, four segments": (Training(huber_c=0.03), 4),
    "CT, pseudo-Huber c = 0.001": (Training(huber_c=0.001), 1),
}
"""The objective and the number of segments; for one number both forms of pseudo-Huber agree."""

TRAILING, LCM = Grid(4).trailing, (999, 759, 499, 259)
ICD, PCM = (0, 259, 519, 779), (0, 239, 499, 739)
PAIRS: dict[str, tuple[Sequence[int] | None, Sequence[int]]] = {
    "matched: our boundaries, trailing": (Grid(40, 4).boundaries, TRAILING),
    "iCD's boundaries, LCMScheduler": (ICD, LCM),
    "iCD's boundaries, trailing": (ICD, TRAILING),
    "PCM's edges, trailing": (PCM, TRAILING),
    "one segment, four DDIM steps": ((CLEAN,), TRAILING),
    "no student: teacher, DDIM-4": (None, TRAILING),
    "no student: teacher, DDIM-50": (None, Grid(50).trailing),
}
"""The lower ends of the student's segments, and where the sampler starts its steps."""


def measure_flow(effort: Effort) -> dict:
    """Return what halving the exact flow's step changes, in units of the data's RMS."""
    halving = {}
    for guidance_scale in (1.0, 3.0):
        x, cond = start(every_class(effort.num_samples), generator("flow"))
        flow = exact_flow(guidance_scale=guidance_scale)
        moved = flow.halving_error(x, everywhere(TOP, x), everywhere(CLEAN, x), cond) / PLANE.rms
        rms, largest = moved.square().mean().sqrt().item(), moved.max().item()
        halving[f"guidance {guidance_scale:g}"] = {"rms": rms, "largest": largest}
    return halving


def measure_solvers(effort: Effort, track: Track) -> dict:
    """Return each solver's errors, and its order from the noisiest timestep to two others.

    Besides the root mean square there are the median distance and the worst points' share of the
    squared error: down to clean data a few points near the border between modes decide the former.
    """
    x, cond = start(any_class(effort.num_samples), generator("solvers"))
    path, teacher = exact_flow()(x, everywhere(TOP, x), cond), denoiser_on(SCHEDULE)
    truths = {"boundary": path.at(everywhere(BOUNDARY, x)), "clean": path.at(everywhere(CLEAN, x))}
    errors: dict = {end: {} for end in truths}
    for name, solver in track(list(SOLVERS.items()), description="solver error"):
        samples: dict[str, list[Latents]] = {end: [] for end in truths}
        for num_steps in effort.order_steps:
            grid = Grid(num_steps).timesteps
            above = solve(solver, teacher, x, [t for t in grid if t >= BOUNDARY], cond)
            clean = solve(solver, teacher, above, [t for t in grid if t <= BOUNDARY], cond)
            samples["boundary"].append(above)
            samples["clean"].append(clean)
        for end, truth in truths.items():
            errors[end][name] = solver_row(effort.order_steps, samples[end], truth)
    return errors


def solver_row(steps: Sequence[int], samples: Sequence[Latents], truth: Latents) -> dict:
    """Return the errors of the samples that a solver makes in each number of steps."""
    error = [same_noise(x, truth) for x in samples]
    distances = [(x - truth).norm(dim=1) for x in samples]
    median = [distance.median().item() for distance in distances]
    return {
        "steps": list(steps),
        "error": error,
        "median": median,
        "worst_share": [worst_share(distance) for distance in distances],
        "order": order(steps, error),
        "median_order": order(steps, median),
    }


def solve(
    solver: Solver,
    teacher: Denoiser[Prediction],
    x: Latents,
    timesteps: Sequence[int],
    cond: Conditioning,
) -> Latents:
    """Go down the rising `timesteps` from the last to the first."""
    for s, t in reversed(list(pairwise(timesteps))):
        x = solver(teacher, x, everywhere(t, x), everywhere(s, x), cond)
    return x


def worst_share(distance: PerSample) -> float:
    """Return the share of the squared error that the worst 2 % of the points have."""
    squares = distance.square().sort(descending=True).values
    return (squares[: len(squares) // 50].sum() / squares.sum()).item()


def order(steps: Sequence[int], errors: Sequence[float]) -> float:
    """Return p of the best fit error ~ steps^-p."""
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


def measure_bias(effort: Effort, track: Track) -> dict:
    """Return the fixed points' errors on Karras's noise levels and on Stable Diffusion's grid."""
    truth = TrueMap(karras(2))  # the highest level is the same for any number
    errors: dict[str, list[float]] = {name: [] for name in OBJECTIVES}
    for num_steps in track(effort.bias_steps, description="bias of the objectives"):
        timesteps = range(CLEAN, num_steps)
        for name, (objective, num_segments) in OBJECTIVES.items():
            ends = [timesteps[round(i * num_steps / num_segments)] for i in range(num_segments)]
            targets = fixed_point(objective, karras(num_steps), timesteps, ends)
            errors[name].append(truth.rms_error(targets))
    truth, on_sd = TrueMap(SCHEDULE), {}
    for name in track(list(OBJECTIVES), description="bias on the sampling grid"):
        objective, num_segments = OBJECTIVES[name]
        grid = Grid(40, num_segments)  # the methods' default
        targets = fixed_point(objective, SCHEDULE, grid.timesteps, grid.boundaries)
        on_sd[name] = truth.rms_error(targets)
    return {"steps": list(effort.bias_steps), "karras": errors, "stable-diffusion": on_sd}


def karras(num_levels: int) -> NoiseSchedule:
    """Return a schedule whose timesteps are the noise levels of EDM's sampler, 0.03 to 14.6.

    Source: Karras et al. 2022 (EDM), eq. 5.
    """
    rho = 7.0
    roots = torch.linspace(0.03 ** (1 / rho), 14.6 ** (1 / rho), num_levels)
    noise_to_signal = torch.cat([torch.zeros(1), roots]).double() ** rho
    alphas = 1 / torch.sqrt(1 + noise_to_signal.square())
    return NoiseSchedule(alphas, noise_to_signal * alphas)


def measure_mismatch(effort: Effort, track: Track) -> dict:
    """Return what it costs to sample a perfect student at other timesteps than its own.

    Distances to the exact flow, in units of the data's RMS.
    """
    flow, count = exact_flow(), 2 * effort.num_samples
    x, cond = start(any_class(count), generator("mismatch"))
    y, _ = start(any_class(count), generator("mismatch", "reference"))
    truth, reference = to_clean(flow, x, cond), to_clean(flow, y, cond)

    samples = {}
    for name, (ends, timesteps) in track(list(PAIRS.items()), description="sampler mismatch"):
        denoiser = denoiser_on(SCHEDULE) if ends is None else perfect_student(flow, ends)
        samples[name] = last(deterministic(denoiser, x, timesteps, cond))
    draw = BatchDraw((generator("mismatch", "stochastic"),))
    steps = stochastic(flow, x, TRAILING, cond, SCHEDULE, draw)
    samples["one segment, four stochastic steps"] = last(steps)
    return {
        name: {
            "same_noise": same_noise(points, truth) / PLANE.rms,
            "energy": energy_distance(points, reference) / PLANE.rms,
        }
        for name, points in samples.items()
    }

"""How fast the solvers converge to the exact flow, and how exact the exact flow is."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from fewstep.diffusion.grid import Grid
from fewstep.diffusion.prediction import Prediction
from fewstep.diffusion.random import generator
from fewstep.diffusion.schedule import CLEAN
from fewstep.diffusion.solvers import SOLVERS, Solver
from fewstep.types import Conditioning, Denoiser, Latents, PerSample
from fewstep.verify.distances import same_noise
from fewstep.verify.effort import Effort, Track
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
)

BOUNDARY = 249
"""The lowest of four segments' inner boundaries; above it the noise level is smooth in t."""


def measure_solvers(effort: Effort, track: Track) -> dict:
    """Return each solver's errors, and its order from the noisiest timestep to two others.

    Besides the root mean square there are the median distance and the worst points' share of the
    squared error: down to clean data a few points near the border between modes decide the former.
    """
    x, cond = start(any_class(effort.num_samples), generator("solvers"))
    path = exact_flow()(x, everywhere(TOP, x), cond)
    truths = {"boundary": path.at(everywhere(BOUNDARY, x)), "clean": path.at(everywhere(CLEAN, x))}
    teacher = denoiser_on(SCHEDULE)
    errors: dict = {
        end: {
            name: {"steps": list(effort.order_steps), "error": [], "median": [], "worst_share": []}
            for name in SOLVERS
        }
        for end in truths
    }
    for num_steps in track(effort.order_steps, description="solver error"):
        for name, solver in SOLVERS.items():
            grid = Grid(num_steps).timesteps
            inner = solve(solver, teacher, x, [t for t in grid if t >= BOUNDARY], cond)
            whole = solve(solver, teacher, inner, [t for t in grid if t <= BOUNDARY], cond)
            for end, points in (("boundary", inner), ("clean", whole)):
                errors[end][name]["error"].append(same_noise(points, truths[end]))
                distance = (points - truths[end]).norm(dim=1)
                errors[end][name]["median"].append(distance.median().item())
                errors[end][name]["worst_share"].append(worst_share(distance))
    for row in (row for rows in errors.values() for row in rows.values()):
        row["order"] = order(row["steps"], row["error"])
        row["median_order"] = order(row["steps"], row["median"])
    return errors


def solve(
    solver: Solver,
    teacher: Denoiser[Prediction],
    x: Latents,
    rising_knots: Sequence[int],
    cond: Conditioning,
) -> Latents:
    """Go down the grid."""
    for s, t in reversed(list(pairwise(rising_knots))):
        x = solver(teacher, x, everywhere(t, x), everywhere(s, x), cond)
    return x


def worst_share(distance: PerSample) -> float:
    """Return the share of the squared error that the worst 2 % of the points have."""
    squares = distance.square().sort(descending=True).values
    return (squares[: len(squares) // 50].sum() / squares.sum()).item()


def order(steps: Sequence[int], errors: Sequence[float]) -> float:
    """Return p of the best fit error ~ steps^-p."""
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


def measure_flow(effort: Effort) -> dict:
    """Return what halving the exact flow's step changes, in units of the data's RMS."""
    halving = {}
    for guidance_scale in (1.0, 3.0):
        x, cond = start(every_class(effort.num_samples), generator("flow"))
        flow = exact_flow(guidance_scale=guidance_scale)
        moved = flow.halving_error(x, everywhere(TOP, x), everywhere(CLEAN, x), cond) / PLANE.rms
        halving[f"guidance {guidance_scale:g}"] = {
            "rms": moved.square().mean().sqrt().item(),
            "largest": moved.max().item(),
        }
    return halving

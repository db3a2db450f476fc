"""How far each jump of a multi-boundary student is from its teacher, segment by segment.

    python benchmarks/segments.py runs/students/trainings/multi-boundary-0 \\
        -o benchmarks/results/segments.json

on a student of `python benchmarks/students.py`, or on any other run or artefact.

The truth is the guided teacher on the solver's grid, the steps that the student learned from. A
jump starts from the teacher's own trajectory, as in sampling, or from noised data, as in training.
The teacher itself jumps too, with and without guidance, for comparison.
"""

import argparse
import json
import sys
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import torch

from fewstep.data.pairs import BundledPairs
from fewstep.diffusion.guidance import guided
from fewstep.diffusion.random import Draw
from fewstep.diffusion.solvers import ddim
from fewstep.errors import UserError
from fewstep.evaluation.intervals import mean
from fewstep.evaluation.metrics.pairs import rmse
from fewstep.evaluation.models import EvaluationSet
from fewstep.evaluation.provenance import commit, machine
from fewstep.files import write_file
from fewstep.student.seeds import numbered_generators
from fewstep.types import Conditioning, Denoiser, Latents

DATA_SEED = 17
"""Of scenes that no bundled config is trained on."""


def ddim_path(
    denoiser: Denoiser, x: Latents, times: list[int], cond: Conditioning
) -> list[Latents]:
    """Return x and its DDIM trajectory through `times`, noisiest first."""
    path = [x]
    for t, s in pairwise(times):
        start, end = (torch.full((len(x),), time) for time in (t, s))
        path.append(ddim(denoiser, path[-1], start, end, cond))
    return path


@torch.no_grad()
def measured(source: str, num: int) -> list[dict]:
    """Return the errors of all jumps, clean end last."""
    evaluated = EvaluationSet.open([source])
    (student,) = evaluated.students
    grid, family = student.contract.grid, evaluated.family
    if len(grid.boundaries) < 2:
        raise UserError(f"{source} has one segment; this is for multi-boundary students")
    plain = family.denoiser(family.network)
    teacher = guided(plain, family.encode_prompts([""]), evaluated.guidance_scale)
    distilled = evaluated.student(student).sampler().denoiser
    times = list(reversed(grid.timesteps))
    stops = [times[0], *reversed(grid.boundaries)]

    pairs = BundledPairs(num, evaluated.resolution, DATA_SEED)
    cond = family.encode_prompts([pairs.captions(i)[0] for i in range(num)])
    images = torch.stack([pairs.image(i) for i in range(num)])
    x_0, _ = family.encode_images(images)
    noise = Draw(numbered_generators(0, range(num))).noise_like(x_0)
    trajectory = dict(zip(times, ddim_path(teacher, noise, times, cond), strict=True))

    denoisers = {"student": distilled, "teacher, guided": teacher, "teacher, unguided": plain}
    rows = []
    for start, end in pairwise(stops):
        noised = family.schedule.add_noise(x_0, noise, torch.full((num,), start))
        between = [time for time in times if end <= time <= start]
        for start_from, x in (("trajectory", trajectory[start]), ("noised data", noised)):
            truth = ddim_path(teacher, x, between, cond)[-1]
            targets = {
                name: ddim_path(denoiser, x, [start, end], cond)[-1]
                for name, denoiser in denoisers.items()
            }
            errors = {
                name: asdict(mean(rmse(x.numpy(), truth.numpy()))) for name, x in targets.items()
            }
            rows.append({"start": start, "end": end, "from": start_from} | errors)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--num", type=int, default=96, help="trajectories")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit(),
        "machine": machine(),
        "segments": measured(args.run, args.num),
    }
    write_file(args.out, json.dumps(results, indent=1) + "\n")
    for row in results["segments"]:
        print(row)


if __name__ == "__main__":
    main()

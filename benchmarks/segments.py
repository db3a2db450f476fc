"""How far each jump of a multi-boundary student lands from its teacher, segment by segment.

    python benchmarks/segments.py runs/students/trainings/multi-boundary-0 \\
        -o benchmarks/results/segments.json

on a student of `python benchmarks/students.py`, or on any other run or artefact.

The truth is the guided teacher on the solver's knots, the steps that the student learnt from. A
jump starts from the teacher's own trajectory, as when images are generated, or from data under
fresh noise, as in training; beside the student jumps the teacher, with guidance and without.
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
from fewstep.evaluation.models import Field
from fewstep.evaluation.provenance import commit, machine
from fewstep.files import write_file
from fewstep.types import Conditioning, Denoiser, Latents

DATA_SEED = 17
"""Of scenes that no bundled config trains on."""


def walk(denoiser: Denoiser, x: Latents, times: list[int], cond: Conditioning) -> list[Latents]:
    """Return x and where DDIM steps through `times`, noisiest first, take it."""
    path = [x]
    for t, s in pairwise(times):
        start, end = (torch.full((len(x),), time) for time in (t, s))
        path.append(ddim(denoiser, path[-1], start, end, cond))
    return path


@torch.no_grad()
def measured(source: str, num: int) -> list[dict]:
    """Return the errors of all jumps, clean end last."""
    field = Field.open([source])
    (student,) = field.students
    grid, family = student.contract.grid, field.family
    if len(grid.boundaries) < 2:
        raise UserError(f"{source} has one segment; this is for multi-boundary students")
    plain = family.denoiser(family.network)
    teacher = guided(plain, family.encode_prompts([""]), field.guidance_scale)
    learnt = field.student(student).sampler().denoiser
    times = list(reversed(grid.timesteps))
    ends = [times[0], *reversed(grid.boundaries)]

    pairs = BundledPairs(num, field.resolution, DATA_SEED)
    cond = family.encode_prompts([pairs.captions(i)[0] for i in range(num)])
    images = torch.stack([pairs.image(i) for i in range(num)])
    x_0, _ = family.encode_images(images)
    noise = Draw.keyed(0, range(num), purpose="paint").noise_like(x_0)
    trajectory = dict(zip(times, walk(teacher, noise, times, cond), strict=True))

    rows = []
    for start, end in pairwise(ends):
        noised = family.schedule.add_noise(x_0, noise, torch.full((num,), start))
        between = [time for time in times if end <= time <= start]
        for where, x in (("trajectory", trajectory[start]), ("noised data", noised)):
            truth = walk(teacher, x, between, cond)[-1]
            jumpers = {"student": learnt, "teacher, guided": teacher, "teacher, unguided": plain}
            landed = {who: walk(one, x, [start, end], cond)[-1] for who, one in jumpers.items()}
            errors = {
                who: asdict(mean(rmse(x.numpy(), truth.numpy()))) for who, x in landed.items()
            }
            rows.append({"start": start, "end": end, "from": where} | errors)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--num", type=int, default=96, help="trajectories")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    results = {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit(),
        "machine": machine(),
        "segments": measured(asked.run, asked.num),
    }
    write_file(asked.out, json.dumps(results, indent=1) + "\n")
    for row in results["segments"]:
        print(row)


if __name__ == "__main__":
    main()

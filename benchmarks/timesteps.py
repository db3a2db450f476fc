"""Where few steps of the bundled teacher fail: its accuracy at selected timesteps.

    python benchmarks/timesteps.py -o benchmarks/results/timesteps.json

Plain guided DDIM at evenly spaced timesteps, at quadratic ones, and at evenly spaced ones where one
segment, or all segments but one, take four steps each. The prompts are not those of evaluations.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from fewstep.diffusion.grid import SPACINGS, Grid
from fewstep.diffusion.guidance import guided
from fewstep.evaluation.intervals import proportion
from fewstep.evaluation.metrics.prompt_accuracy import all_right, verdicts
from fewstep.evaluation.prompts import held_out_prompts
from fewstep.evaluation.provenance import commit, machine
from fewstep.files import write_file
from fewstep.models.loading import load_model
from fewstep.student.generate import ImageSampler
from fewstep.student.seeds import numbered_generators

PROMPT_SEED = 777
SEGMENTS, FINE = 4, 4


def trajectories() -> dict[str, tuple[int, ...]]:
    """Return the timesteps of each trajectory by its name."""
    fine = Grid(SEGMENTS * FINE).trailing
    parts = [fine[i : i + FINE] for i in range(0, len(fine), FINE)]  # noisiest first
    found = {f"{spacing}, {n} steps": Grid(n, spacing=spacing).trailing
              for n in (4, 8, 16) for spacing in SPACINGS}  # fmt: skip
    for i, part in enumerate(parts):
        name = f"{part[0]} to {parts[i + 1][0] if i + 1 < SEGMENTS else 'clean'}"
        one_fine = [p if p is part else p[:1] for p in parts]
        one_plain = [p[:1] if p is part else p for p in parts]
        found[f"only {name} in {FINE}"] = tuple(t for p in one_fine for t in p)
        found[f"all but {name} in {FINE}"] = tuple(t for p in one_plain for t in p)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--num", type=int, default=400, help="prompts")
    parser.add_argument("--guidance", type=float, default=2.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    family = load_model("bundled")
    prompts = held_out_prompts(args.num, PROMPT_SEED)
    plain = family.denoiser(family.network)
    denoiser = guided(plain, family.encode_prompts([""]), args.guidance)
    rows = []
    for name, timesteps in trajectories().items():
        sampler = ImageSampler(family, denoiser, timesteps, "deterministic", 2 * len(timesteps))
        generators = numbered_generators(0, range(len(prompts)))
        latents = sampler.latents(prompts, generators, family.default_resolution)
        images = sampler.decode(latents).numpy()
        right = proportion(all_right(verdicts(images, prompts)))
        rows.append({"walk": name, "timesteps": timesteps, "prompt_accuracy": asdict(right)})
        print(name, timesteps, right, flush=True)
    results = {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit(),
        "machine": machine(),
        "guidance_scale": args.guidance,
        "walks": rows,
    }
    write_file(args.out, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

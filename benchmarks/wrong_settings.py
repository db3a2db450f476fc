"""What other programs' settings make of trained students: how far latents and images are off.

    python benchmarks/wrong_settings.py -o benchmarks/results/wrong_settings.json

Trains three bundled students, 150 steps each, where they are missing. Each setting is imitated by
what it changes: the timesteps, the first noise, the last jump, fresh noise between the jumps.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
from students import run

from fewstep.diffusion.random import Draw
from fewstep.diffusion.solvers import ddim
from fewstep.evaluation.intervals import proportion
from fewstep.evaluation.metrics.prompt_accuracy import all_right, verdicts
from fewstep.evaluation.prompts import held_out_prompts
from fewstep.evaluation.provenance import commit, machine
from fewstep.files import write_file
from fewstep.quickstart import CONFIGS
from fewstep.student.generate import ImageSampler
from fewstep.student.pipeline import FewStepPipeline
from fewstep.student.samplers import SAMPLERS, last
from fewstep.student.seeds import image_generators
from fewstep.types import Latents

PROMPT_SEED = 778


@dataclass(frozen=True)
class Setting:
    """A change: other timesteps, another sampler, less first noise, no last jump to clean data."""

    name: str
    timesteps: tuple[int, ...] | None = None
    sampler: str | None = None
    scales_noise: bool = False
    ends_at_0: bool = False


LINSPACE = Setting("starts at 999, 666, 333, 0: Euler's default", (999, 666, 333, 0))
SCALED = Setting("the first noise is scaled: Euler without the SGM setting, InvokeAI",
                 scales_noise=True)  # fmt: skip
STUDENTS = {
    "multi-boundary": (
        "multi-boundary.toml",
        ("method.spacing=uniform",),
        (
            SCALED,
            Setting("one timestep off in two calls: `sgm_uniform`", (999, 749, 500, 250)),
            Setting("`set_alpha_to_one=False`", ends_at_0=True),
            Setting('spacing "leading"', (751, 501, 251, 1)),
            LINSPACE,
            Setting("fresh noise between the jumps: LCM", sampler="stochastic"),
        ),
    ),
    "cd": (
        "cd.toml",
        ("method.spacing=uniform", "method.num_solver_steps=40"),
        (
            SCALED,
            Setting("50 original timesteps: ModelSamplingDiscrete `lcm`", (999, 759, 499, 259)),
            Setting("A1111's Automatic", (999, 679, 339, 19)),
            LINSPACE,
            Setting("no fresh noise: DDIM, Euler", sampler="deterministic"),
        ),
    ),
    "quadratic": (
        "multi-boundary.toml",
        (),
        (
            Setting("Euler with a number of steps", (751, 501, 251, 1)),
            Setting("trailing DDIM with a number of steps", (999, 749, 499, 249)),
        ),
    ),
}  # fmt: skip
"""By student: its bundled config, what is changed in it, and the settings that are tried."""


def latents_of(sampler: ImageSampler, setting: Setting, prompts: Sequence[str]) -> Latents:
    """Return the latents [prompts, channels, h, w] of a student, with a setting's change."""
    family, schedule = sampler.family, sampler.family.schedule
    draw = Draw(image_generators(0, len(prompts)), torch.device("cpu"))
    shape = family.latent_shape(family.default_resolution)
    x_t = draw.noise_like(torch.empty(len(prompts), *shape))
    timesteps = setting.timesteps or tuple(sampler.timesteps)
    if setting.scales_noise:
        x_t = x_t * schedule.levels(torch.tensor(timesteps[:1]), x_t)[1]
    cond = family.encode_prompts(prompts)
    sample = SAMPLERS[setting.sampler or sampler.sampler]
    if not setting.ends_at_0:
        return last(sample(sampler.denoiser, x_t, timesteps, cond, schedule, draw))
    steps = torch.tensor([*timesteps, 0])[:, None].expand(-1, len(prompts))
    for t, s in pairwise(steps):
        x_t = ddim(sampler.denoiser, x_t, t, s, cond)
    return x_t


def compare(sampler: ImageSampler, settings: Sequence[Setting], prompts: Sequence[str]):
    """Yield a row for the student's own sampler, then one a setting: differences and accuracy."""
    own = images = None
    for setting in (Setting("as trained"), *settings):
        latents = latents_of(sampler, setting, prompts)
        found = sampler.decode(latents)
        own, images = (latents, found) if own is None else (own, images)
        off = (found.float() - images.float()).abs()  # type: ignore[union-attr]
        yield {
            "setting": setting.name,
            "timesteps": list(setting.timesteps or sampler.timesteps),
            "latents_rms": (latents - own).square().mean().sqrt().item(),
            "latents_std": latents.std().item(),
            "pixels_mean": off.mean().item(),
            "pixels_largest": off.max().item(),
            "prompt_accuracy": asdict(proportion(all_right(verdicts(found.numpy(), prompts)))),
        }


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/wrong-settings"))
    parser.add_argument("--num", type=int, default=200, help="prompts")
    args = parser.parse_args()
    torch.set_num_threads(1)
    prompts, rows = held_out_prompts(args.num, PROMPT_SEED), []
    for student, (config, changes, settings) in STUDENTS.items():
        options = [part for change in (*changes, "train.steps=150", "train.preview_every=0")
                   for part in ("--set", change)]  # fmt: skip
        folder = str(args.runs / student)
        run(sys.executable, "-m", "fewstep", "distill", str(CONFIGS / config), "--run", folder,
            *options)  # fmt: skip
        sampler = FewStepPipeline.from_pretrained(folder).sampler()
        for row in compare(sampler, settings, prompts):
            rows.append({"student": student, **row})
            print(rows[-1], flush=True)
    header = {"command": f"python benchmarks/wrong_settings.py -o {args.out}", "commit": commit()}
    results = header | {"machine": machine(), "n": args.num, "rows": rows}
    write_file(args.out, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

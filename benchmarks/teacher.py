"""How good the bundled teacher is: accuracy and Fréchet distance by steps and guidance.

    python benchmarks/teacher.py -o benchmarks/results/teacher.json

Prompts are captions of scenes outside every training set. "seen" prompts mention combinations of
shape and colour that occur in training, "held-back" ones at least one that never does. After an
interruption it continues: images are kept in runs/teacher-images.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fewstep.console import finish
from fewstep.evaluation.features import FeatureCache
from fewstep.evaluation.intervals import proportion
from fewstep.evaluation.metrics import METRICS
from fewstep.evaluation.metrics.frechet import Gaussian
from fewstep.evaluation.metrics.prompt_accuracy import all_right, by_attribute, verdicts
from fewstep.evaluation.models import EvaluatedModel
from fewstep.evaluation.prompts import PROMPT_SEED, held_out_prompts, renderings
from fewstep.evaluation.provenance import commit, machine
from fewstep.evaluation.samples import SampleCache, generate_images
from fewstep.files import write_file
from fewstep.models.base import fingerprint
from fewstep.models.loading import load_model
from fewstep.student.generate import teacher_nfe, teacher_sampler
from fewstep.world.captions import describe
from fewstep.world.scenes import HELD_BACK, render, sample_scene
from fewstep.world.sentences import claims

STEPS, SCALES = (50, 20, 8, 4, 2), (1.0, 2.0, 3.0, 5.0, 7.0)
IMAGES = Path("runs/teacher-images")
FEATURES = FeatureCache.of_extractor("bundled", IMAGES / "features", None, "cpu")
Job = tuple[str, int, int, float]  # kind of prompts, how many, steps, guidance


def held_back_prompts(num: int) -> list[str]:
    """Return captions that name a held-back pair of shape and colour."""
    prompts: list[str] = []
    number = 0
    while len(prompts) < num:
        rng = np.random.default_rng([PROMPT_SEED, 1, number])
        number += 1
        caption = describe(sample_scene(rng, held_back=True), rng)
        if any((m.shape, m.colour) in HELD_BACK for m in claims(caption).mentions):
            prompts.append(caption)
    return prompts


PROMPTS = {"seen": held_out_prompts, "held-back": held_back_prompts}


def generate(job: Job, folder: Path) -> NDArray[np.uint8]:
    """Return the teacher's images of a job."""
    torch.set_num_threads(1)
    kind, num, steps, scale = job
    family = load_model("bundled")
    model = EvaluatedModel(
        source="bundled",
        method="teacher",
        steps=steps,
        nfe=teacher_nfe(steps, scale),
        identity=(family.fingerprint, fingerprint(*family.vae_and_text_encoder), steps, scale),
        sampler=lambda: teacher_sampler(family, steps, scale),
    )
    samples = SampleCache([model], folder, PROMPTS[kind](num), family.default_resolution)
    finish(generate_images(samples, samples.batches))
    return samples.all_images(model)


def row(job: Job, images: NDArray[np.uint8], real) -> dict:
    """Return the metrics of a job."""
    kind, num, steps, scale = job
    correct = verdicts(images, PROMPTS[kind](num))
    features = FEATURES.of(images)
    metrics = {"prompt_accuracy": proportion(all_right(correct))}
    metrics |= {f"prompt_accuracy.{k}": proportion(v) for k, v in by_attribute(correct).items()}
    metrics["frechet"] = METRICS["frechet"].measure(features, real)
    return {
        "prompts": kind,
        "steps": steps,
        "guidance_scale": scale,
        "calls": teacher_nfe(steps, scale),
        "metrics": {name: asdict(metric) for name, metric in metrics.items()},
    }


def real_against_real(num: int, real) -> dict:
    """Return the Fréchet distance of new renderings: the best that a teacher could reach."""
    scenes = (sample_scene(np.random.default_rng([PROMPT_SEED, i])) for i in range(num))
    features = FEATURES.of(np.stack([render(scene) for scene in scenes]))
    return asdict(METRICS["frechet"].measure(features, real))


def jobs(num: int, num_best: int, best: float) -> Sequence[Job]:
    """Return the table at `num` prompts, and its best row at more, also for held-back prompts."""
    table = [("seen", num, steps, scale) for steps in STEPS for scale in SCALES]
    return [*table, ("seen", num_best, 50, best), ("held-back", num_best, 50, best)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--num", type=int, default=500, help="prompts per cell of the table")
    parser.add_argument("--num-best", type=int, default=1000, help="prompts of the best row")
    parser.add_argument("--best", type=float, default=2.0, help="its guidance scale")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    todo = jobs(args.num, args.num_best, args.best)
    with ProcessPoolExecutor(args.workers, get_context("spawn")) as pool:
        generated = list(pool.map(generate, todo, [IMAGES] * len(todo)))
    real = Gaussian.fit(FEATURES.of_set("renderings", renderings))
    results = {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit(),
        "machine": machine(),
        "real_frechet": real_against_real(args.num, real),
        "rows": [row(job, images, real) for job, images in zip(todo, generated, strict=True)],
    }
    write_file(args.out, json.dumps(results, indent=1) + "\n")
    for entry in results["rows"]:
        accuracy = entry["metrics"]["prompt_accuracy"]
        print(entry["prompts"], entry["steps"], entry["guidance_scale"], accuracy)


if __name__ == "__main__":
    main()

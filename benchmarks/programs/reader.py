"""What every program's file shares: it samples the cases of a folder, and prints what it saw.

Runs in the programs' environments, old ones too, so it does not import fewstep.
"""

import json
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

PROMPTS, STEPS, SEED, SIDE = ["a red heart", "two small blue stars"], 4, 3, 64
FOLDER = Path("fused") / "diffusers"
Loader = Callable[[Path], Any]


def sampled(pipeline: Any, own: np.ndarray) -> dict[str, Any]:
    """Return the timesteps that a pipeline asked, and its largest difference, of 255."""
    asked: list[list[int]] = []
    images = []
    pipeline.set_progress_bar_config(disable=True)
    for i, prompt in enumerate(PROMPTS):
        steps: list[int] = []

        def note(_: Any, __: int, t: Any, tensors: dict, steps: list[int] = steps) -> dict:
            steps.append(int(t))
            return tensors

        images += list(pipeline(
            prompt, num_inference_steps=STEPS, guidance_scale=1.0, height=SIDE, width=SIDE,
            generator=torch.Generator().manual_seed(SEED + i), output_type="np",
            callback_on_step_end=note,
        ).images)  # fmt: skip
        asked.append(steps)
    if any(steps != asked[0] for steps in asked):
        raise ValueError(f"other timesteps for another prompt: {asked}")
    return {"timesteps": asked[0], "difference": 255 * float(np.abs(np.stack(images) - own).max())}


def report(
    packages: Sequence[str],
    loaders: dict[str, Loader],
    keys: Callable[[Any, Path], list[int]] | None = None,
) -> None:
    """Load each file of each case in argv's folder, sample it, and print JSON."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = []
    for case in sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir()):
        for file, load in loaders.items():
            pipeline = load(case)
            row = {"case": case.name, "file": file}
            row |= sampled(pipeline, np.load(case / "images.npy"))
            found.append(row | {"keys": keys(pipeline, case) if keys else None})
    versions = {name: version(name) for name in packages}
    print(json.dumps({"versions": versions, "rows": found}))

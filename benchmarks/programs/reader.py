"""What every program's file shares: it samples the cases of a folder, and prints what it saw.

Runs in the programs' environments, old ones too, so it does not import fewstep.
"""

import json
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

PROMPTS, STEPS, SEED, SIDE = ["a red heart", "two small blue stars"], 4, 3, 64
BUNDLED, TWO_LEVELS, FULL = "bundled", "sd15-two-levels", "sd15"
"""The base models: the one that ships, and random ones of Stable Diffusion 1.5's shape, one of them
with the two finest levels of its UNet alone."""
BASE, BASE_FILE = "base", "base.safetensors"
"""Where a base model lies beside its students, as a folder and as a file (a random one's)."""
FOLDER, CHECKPOINT = Path("fused") / "diffusers", "fused/student-fused.safetensors"
DIFFUSERS_LORA, KOHYA_LORA = "pytorch_lora_weights.safetensors", "student.safetensors"
PEFT_LORA = "adapter_model.safetensors"
STYLE_LORA = "style.safetensors"
"""A second LoRA beside a student, by kohya's names."""
WEIGHTS = ((1.0, 0.5), (1.0, 0.75), (1.0, 1.0), (0.75, 1.0), (0.5, 1.0))
"""Of the student and the second LoRA, where both are loaded."""
MULTI, CD, QUADRATIC = "multi-boundary-cd", "cd", "quadratic"
STUDENTS = (MULTI, CD)
"""The students with a LoRA in every kind of layer."""
TRANSFORMER_STUDENT = "cd-transformer"
"""The student with a LoRA in attention and feed-forward layers alone."""
Loader = Callable[[Path], Any]


def of_both(weights: tuple[float, float]) -> str:
    """Return what is loaded, in words."""
    return f"{KOHYA_LORA} at {weights[0]:g}, {STYLE_LORA} at {weights[1]:g}"


def images_of(file: str) -> str:
    """Return the name of the images that a row is compared with."""
    return f"{file}.npy" if STYLE_LORA in file else "images.npy"


def sampled(pipeline: Any, own: np.ndarray) -> dict[str, Any]:
    """Return the timesteps that a pipeline asked, and its largest difference, of 255.

    The timesteps are None where a program does not tell them.
    """
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
    difference = 255 * float(np.abs(np.stack(images) - own).max())
    return {"timesteps": asked[0] or None, "difference": difference}


def rows(
    loaders: dict[str, Loader],
    students: Iterable[str] = STUDENTS,
    keys: Callable[[Any, Path], list[int]] | None = None,
) -> Iterator[dict[str, Any]]:
    """Load each file of each student in argv's folder, sample it, and yield what was seen."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for student in students:
        case = Path(sys.argv[1]) / student
        for file, load in loaders.items():
            pipeline = load(case)
            row = {"case": student, "file": file}
            row |= sampled(pipeline, np.load(case / images_of(file)))
            yield row | {"keys": keys(pipeline, case) if keys else None}


def report(
    packages: Sequence[str],
    found: Iterable[dict[str, Any]],
    versions: Mapping[str, str] | None = None,
) -> None:
    """Print the rows and the versions as JSON: the program's own, and its packages'."""
    versions = {**(versions or {}), **{name: version(name) for name in packages}}
    print(json.dumps({"rows": list(found), "versions": versions}))

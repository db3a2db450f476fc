"""kohya's sd-scripts, from a folder that holds its repository: its tool merges a LoRA into a model.

The merged file is sampled by the diffusers beside it. torchvision has to match torch.
"""

# pyright: reportMissingImports=false
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.programs import reader
from benchmarks.programs.reader import (
    BASE_FILE,
    CHECKPOINT,
    DIFFUSERS_LORA,
    FOLDER,
    KOHYA_LORA,
    MULTI,
    PEFT_LORA,
    report,
    rows,
)  # fmt: skip

ENVIRONMENTS = {
    "sd-scripts": (
        "torch==2.6.0", "torchvision==0.21.0", "diffusers==0.32.1", "transformers==4.54.1",
        "accelerate==1.6.0", "safetensors==0.4.5", "huggingface-hub==0.34.3",
        "opencv-python-headless==4.10.0.84", "einops==0.7.0", "toml==0.10.2", "imagesize==1.4.1",
        "voluptuous==0.15.2", "rich==14.1.0", "ftfy==6.3.1", "sentencepiece==0.2.1",
    )
}  # fmt: skip
REPOSITORY = "networks/merge_lora.py"
SETTINGS = "merge_lora.py --precision float --save_precision float --ratios 1, then diffusers"
MODEL = reader.FULL
NOT_READ = {"sd-scripts": {(MULTI, DIFFUSERS_LORA), (MULTI, PEFT_LORA)}}
"""It merges the layers whose names are kohya's, and passes over all others without a word."""


def merged(repository: Path, model: Path, lora: Path, output: Path) -> Path:
    """Merge a LoRA into a checkpoint by the repository's tool; return the new checkpoint."""
    tool = [sys.executable, repository / REPOSITORY, "--precision", "float"]
    files = ["--sd_model", model, "--models", lora, "--save_to", output]
    more = ["--save_precision", "float", "--ratios", "1.0", "--no_metadata"]
    done = subprocess.run(
        [*tool, *files, *more], cwd=repository, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(repository)},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return output


def load(repository: Path, folder: Path, file: str, case: Path) -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    output = merged(repository, case.parent / BASE_FILE, case / file, folder / "merged.safetensors")
    pipeline = StableDiffusionPipeline.from_single_file(
        str(output), config=str(case / FOLDER), local_files_only=True, torch_dtype=torch.float32,
        safety_checker=None, feature_extractor=None,
    )  # fmt: skip
    pipeline.scheduler = DDIMScheduler.from_pretrained(case / "scheduler")
    pipeline.merged = output
    return pipeline


def keys(pipeline: Any, case: Path) -> list[int]:
    """Return how many tensors are the student's own checkpoint's, of those that are not the base's.

    A tensor that the student does not change counts where the tool changed it.
    """
    from safetensors import safe_open

    prefix, same, total = "model.diffusion_model.", 0, 0
    with (
        safe_open(case.parent / BASE_FILE, "pt") as base,
        safe_open(case / CHECKPOINT, "pt") as own,
        safe_open(pipeline.merged, "pt") as theirs,
    ):
        for name in own.keys():  # noqa: SIM118
            before, student, found = (f.get_tensor(name) for f in (base, own, theirs))
            if name.startswith(prefix) and not (before.equal(student) and before.equal(found)):
                total += 1
                same += student.equal(found)
    return [same, total]


if __name__ == "__main__":
    repository = Path(sys.argv[2])
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as folder:
        loaders = {
            file: partial(load, repository, Path(folder), file)
            for file in (KOHYA_LORA, DIFFUSERS_LORA, PEFT_LORA)
        }
        found = list(rows(loaders, (MULTI,), keys))
    git = ["git", "-C", repository, "describe", "--tags", "--always"]
    version = subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
    report(("torch", "diffusers", "transformers"), found, {"sd-scripts": version})

"""Sample whole models with the installed diffusers and transformers, and compare the images.

    python benchmarks/whole_models_reader.py FOLDER BASE

FOLDER holds one folder per case, each with an export and `images.npy`, the student's own images.
Prints JSON: the largest difference, of 255, by case and file. Does not import fewstep, so that it
runs with old versions of all libraries.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers import StableDiffusionPipeline

PROMPTS, STEPS, SEED, SIDE = ["a red heart", "two small blue stars"], 4, 3, 64


def folder_in(case: Path, base: str) -> Any:
    """Open the diffusers folder as it is."""
    return StableDiffusionPipeline.from_pretrained(case / "fused" / "diffusers")


def file_in(case: Path, base: str) -> Any:
    """Open the single file, which has no scheduler: it is the folder's."""
    (path,) = (case / "fused").glob("*.safetensors")
    pipe = StableDiffusionPipeline.from_single_file(
        str(path), config=base, local_files_only=True, torch_dtype=torch.float32
    )
    pipe.scheduler = folder_in(case, base).scheduler
    return pipe


READERS = {"diffusers folder": folder_in, "single file": file_in}


def difference(case: Path, reader: str, base: str) -> float:
    """Return the largest difference of a file's images, of 255."""
    pipe = READERS[reader](case, base)
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(SEED + i) for i in range(len(PROMPTS))]
    images = pipe(
        PROMPTS, num_inference_steps=STEPS, guidance_scale=1.0, generator=generators,
        height=SIDE, width=SIDE, output_type="np",
    ).images  # fmt: skip
    return 255 * float(np.abs(images - np.load(case / "images.npy")).max())


def main(folder: Path, base: str) -> None:
    """Print every case's differences, and the versions."""
    cases = sorted(path for path in folder.iterdir() if path.is_dir())
    versions = {"diffusers": diffusers.__version__, "transformers": transformers.__version__}
    found = {case.name: {r: difference(case, r, base) for r in READERS} for case in cases}
    print(json.dumps({"versions": versions, "differences": found}))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2])

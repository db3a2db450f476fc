"""Load LoRA files with the installed diffusers and PEFT, and measure the UNet's error.

    python benchmarks/load_matrix_reader.py FOLDER

FOLDER holds one folder per case, each with the files and `truth.safetensors`, the expected output.
Prints JSON: the largest error by case and reader. Does not import fewstep, so that it runs with old
versions of all libraries.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import diffusers
import peft
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from load_matrix_truth import output_of, thin_unet
from safetensors.torch import load_file

Read = Callable[[UNet2DConditionModel, Path], UNet2DConditionModel]


def through_diffusers(unet: UNet2DConditionModel, path: Path) -> UNet2DConditionModel:
    """Load into a pipeline; old versions also need its VAE and scheduler."""
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    pipe = StableDiffusionPipeline(
        vae, None, None, unet, DDIMScheduler(), None, None, requires_safety_checker=False
    )  # type: ignore[arg-type]
    pipe.load_lora_weights(str(path.parent), weight_name=path.name)
    return pipe.unet


def through_peft(unet: UNet2DConditionModel, path: Path) -> UNet2DConditionModel:
    """Load as `PeftModel.from_pretrained` does."""
    return peft.PeftModel.from_pretrained(unet, str(path.parent))  # type: ignore[arg-type,return-value]


READERS: dict[str, tuple[str, str, Read]] = {
    "diffusers, diffusers file": (
        "diffusers", "pytorch_lora_weights.safetensors", through_diffusers),
    "diffusers, kohya file": ("diffusers", "student.safetensors", through_diffusers),
    "PEFT, PEFT files": ("PEFT", "adapter_model.safetensors", through_peft),
}  # fmt: skip
"""By name: the library, the file and the function that loads it."""


def error(reader: str, folder: Path) -> float:
    """Return the largest error of the UNet's output with a file loaded by a reader."""
    _, file, read = READERS[reader]
    with torch.no_grad():
        found = output_of(read(thin_unet(), folder / file).eval())
    return (found - load_file(folder / "truth.safetensors")["answer"]).abs().max().item()


def main(folder: Path) -> None:
    """Print every case's errors, and the versions."""
    cases = sorted(path for path in folder.iterdir() if path.is_dir())
    versions = {"diffusers": diffusers.__version__, "PEFT": peft.__version__}
    found = {case.name: {reader: error(reader, case) for reader in READERS} for case in cases}
    print(json.dumps({"versions": versions, "errors": found}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))

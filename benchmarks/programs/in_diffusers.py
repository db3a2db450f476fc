"""Diffusers' own pipeline, with transformers from 4.44 to today's."""

# pyright: reportMissingImports=false
from pathlib import Path
from typing import Any

import torch

from benchmarks.programs.reader import (
    BASE,
    DIFFUSERS_LORA,
    FOLDER,
    KOHYA_LORA,
    Loader,
    report,
    rows,
)

SHARED = ("numpy", "safetensors", "torch==2.13.0", "accelerate")
ENVIRONMENTS = {
    "diffusers-4.44": ("diffusers==0.30.3", "transformers==4.44.2", "peft==0.17.1", *SHARED),
    "diffusers-4.57": ("diffusers==0.35.2", "transformers==4.57.6", "peft==0.17.1", *SHARED),
    "diffusers-5.5": ("diffusers==0.40.0", "transformers==5.5.4", "peft==0.20.0", *SHARED),
    "diffusers-current": ("diffusers==0.42.1", "transformers==5.23.0", "peft==0.20.0", *SHARED),
}
SETTINGS = "4 steps, guidance 1, the artefact's scheduler"
PREFIX = "text_model."


def load(case: Path) -> Any:
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(case / FOLDER)


def keys(pipeline: Any, case: Path) -> list[int]:
    """Return how many of the folder's tensors the networks have, and how many there are."""
    from safetensors.torch import load_file

    applied = total = 0
    for part in ("unet", "text_encoder", "vae"):
        (path,) = (case / FOLDER / part).glob("*.safetensors")
        has = {
            name.removeprefix(PREFIX): value
            for name, value in getattr(pipeline, part).state_dict().items()
        }
        for name, value in load_file(path).items():
            own = has.get(name.removeprefix(PREFIX))
            applied += own is not None and torch.equal(own, value)
            total += 1
    return [applied, total]


def load_lora(file: str) -> Loader:
    """Return what loads a LoRA file onto the base model."""

    def load(case: Path) -> Any:
        import diffusers

        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(case.parent / BASE)
        config = diffusers.DDIMScheduler.load_config(case / "scheduler")
        pipeline.scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
        pipeline.load_lora_weights(str(case), weight_name=file)
        return pipeline

    return load


def lora_keys(pipeline: Any, case: Path) -> list[int]:
    """Return how many layers of the UNet have a LoRA, and how many the student has."""
    from safetensors.torch import load_file

    applied = sum(name.endswith("lora_A.default_0.weight") for name in pipeline.unet.state_dict())
    trained = load_file(case / "adapter_model.safetensors")
    return [applied, sum(name.endswith("lora_A.weight") for name in trained)]


if __name__ == "__main__":
    loras = {file: load_lora(file) for file in (DIFFUSERS_LORA, KOHYA_LORA)}
    report(
        ("diffusers", "transformers", "peft"),
        [*rows({str(FOLDER): load}, keys=keys), *rows(loras, keys=lora_keys)],
    )

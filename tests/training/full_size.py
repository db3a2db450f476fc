"""Models at their full size, with random weights: trained, sampled, and read by stock diffusers.

    python -m tests.training.full_size write CHECKPOINT
    python -m tests.training.full_size train CHECKPOINT IMAGES RUN
    python -m tests.training.full_size sample RUN
    python -m tests.training.full_size export RUN FOLDER
    python -m tests.training.full_size diffusers FOLDER

The checkpoint's name without its suffix is one in MODELS. Each prints JSON. Bytes are above those
of the process after its imports.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file

from fewstep.config import (
    AdapterSettings,
    Config,
    DataSettings,
    ModelSettings,
    Precision,
    TrainSettings,
)
from fewstep.export.export import ExportOptions, export_artefact
from fewstep.models.loading import load_skeleton
from fewstep.student.pipeline import FewStepPipeline
from fewstep.training.distill import TrainingStep, distill


@dataclass(frozen=True)
class Model:
    """Whose architecture it is, and how it is trained: in `precision`, at `resolution` pixels."""

    hub_id: str
    precision: Precision
    resolution: int
    steps: int


MODELS = {
    "sd15": Model("stable-diffusion-v1-5/stable-diffusion-v1-5", "fp32", 512, steps=2),
    "sdxl": Model("stabilityai/stable-diffusion-xl-base-1.0", "bf16", 256, steps=1),
}


def config(checkpoint: Path, images: Path) -> Config:
    """Return settings for the model's optimiser steps on one image."""
    model = MODELS[checkpoint.stem]
    return Config(
        method={"name": "cd"},
        model=ModelSettings(base=str(checkpoint), precision=model.precision),
        adapter=AdapterSettings(preset="all", rank=64),
        data=DataSettings(path=str(images), resolution=model.resolution),
        train=TrainSettings(
            steps=model.steps, batch_size=1, warmup=0, save_every=2, preview_every=0
        ),
    )


def write(checkpoint: Path) -> None:
    """Write a checkpoint file of the shipped architecture: made on meta, filled part by part."""
    family = load_skeleton(MODELS[checkpoint.stem].hub_id, dtype=torch.float16)
    draw = torch.Generator().manual_seed(0)
    for part in (family.network, *family.vae_and_text_encoder):
        part.half().to_empty(device="cpu")
        for name, weight in part.named_parameters():
            if weight.dim() == 1:
                weight.data.fill_(float(name.endswith("weight")))
            else:
                weight.data.uniform_(-1, 1, generator=draw).mul_((3 / weight[0].numel()) ** 0.5)
    save_file(family.checkpoint_weights(family.network), checkpoint)


def peak_bytes() -> int:
    """Return the most bytes resident since the peak was last forgotten (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def train(checkpoint: Path, images: Path, run: Path) -> dict[str, object]:
    """Load, cache, take the optimiser steps and save."""
    imported, loading, peak, steps = peak_bytes(), 0, 0, 0
    for event in distill(config(checkpoint, images), run):
        if isinstance(event, TrainingStep):
            peak, steps = peak_bytes(), event.done
        elif event.task.startswith("training"):
            loading = peak_bytes()
            forget_peak()
    return {
        "steps": steps,
        "peak": peak - imported,
        "peak_of_all": max(loading, peak, peak_bytes()),
    }


def sample(run: Path) -> dict[str, object]:
    """Sample one step of 256 pixels by the student."""
    pipeline = FewStepPipeline.from_pretrained(run)
    (image,) = pipeline("a lighthouse", num_inference_steps=1, height=256, width=256)
    return {"size": image.image.size, "peak_of_all": peak_bytes()}


def export(run: Path, folder: Path) -> dict[str, object]:
    """Write the student as a diffusers folder of whole networks."""
    export_artefact(str(run), folder, ExportOptions(fused=True, precision="fp16"))
    return {"peak_of_all": peak_bytes()}


def sample_by_diffusers(folder: Path) -> dict[str, object]:
    """Sample one step of 256 pixels by what the folder's own index names."""
    pipeline = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
    (image,) = pipeline(
        "a lighthouse", num_inference_steps=1, guidance_scale=1.0, height=256, width=256
    ).images
    return {"size": image.size, "class": type(pipeline).__name__, "peak_of_all": peak_bytes()}


COMMANDS = {
    "write": write,
    "train": train,
    "sample": sample,
    "export": export,
    "diffusers": sample_by_diffusers,
}

if __name__ == "__main__":
    command, *paths = sys.argv[1:]
    print(json.dumps(COMMANDS[command](*map(Path, paths))))

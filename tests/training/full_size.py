"""Stable Diffusion 1.5 at its full 860 M parameters, with random weights, trained and sampled.

    python -m tests.training.full_size write CHECKPOINT
    python -m tests.training.full_size train CHECKPOINT IMAGES RUN

Each prints JSON. Bytes are above those of the process after its imports.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from fewstep.config import AdapterSettings, Config, DataSettings, ModelSettings, TrainSettings
from fewstep.models.loading import load_skeleton
from fewstep.student.pipeline import FewStepPipeline
from fewstep.training.distill import TrainingStep, distill


def config(checkpoint: Path, images: Path) -> Config:
    """Return settings for two optimiser steps on one image of 512 pixels, in fp32."""
    return Config(
        method={"name": "cd"},
        model=ModelSettings(base=str(checkpoint), precision="fp32"),
        adapter=AdapterSettings(preset="all", rank=64),
        data=DataSettings(path=str(images), resolution=512),
        train=TrainSettings(steps=2, batch_size=1, warmup=0, save_every=2, preview_every=0),
    )


def write(checkpoint: Path) -> None:
    """Write a checkpoint file of the shipped architecture: made on meta, filled part by part."""
    family = load_skeleton("stable-diffusion-v1-5/stable-diffusion-v1-5", dtype=torch.float16)
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
    """Load, cache, take two optimiser steps, save, and sample in one call."""
    imported, loading, peak, steps = peak_bytes(), 0, 0, 0
    for event in distill(config(checkpoint, images), run):
        if isinstance(event, TrainingStep):
            peak, steps = peak_bytes(), event.done
        elif event.task.startswith("training"):
            loading = peak_bytes()
            forget_peak()
    pipeline = FewStepPipeline.from_pretrained(run)
    (image,) = pipeline("a lighthouse", num_inference_steps=1, height=256, width=256)
    return {
        "steps": steps,
        "peak": peak - imported,
        "peak_of_all": max(loading, peak, peak_bytes()),
        "size": image.image.size,
    }


if __name__ == "__main__":
    command, *paths = sys.argv[1:]
    print(json.dumps({"write": write, "train": train}[command](*map(Path, paths))))

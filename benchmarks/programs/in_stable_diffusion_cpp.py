"""stable-diffusion.cpp, by the Python package with its engine inside, which is built from source.

It takes the settings of the command line; with `rng_type` and `sampler_rng_type` "cpu" it draws
torch's noise. Its architecture of Stable Diffusion 1.5 is fixed: the model is the whole one, 5 GB.
"""

# pyright: reportMissingImports=false
import json
import re
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch

from benchmarks.programs import reader
from benchmarks.programs.reader import (
    BASE_FILE,
    CD,
    CHECKPOINT,
    DIFFUSERS_LORA,
    FOLDER,
    KOHYA_LORA,
    MULTI,
    PEFT_LORA,
    QUADRATIC,
    report,
    rows,
)  # fmt: skip

NAME, PACKAGE = "stable-diffusion.cpp", "stable-diffusion-cpp-python"
ENVIRONMENTS = {
    NAME: (f"{PACKAGE}==0.4.7", "torch==2.13.0", "numpy==2.4.6", "safetensors==0.8.0"),
}
SETTINGS = "4 steps, cfg 1: ddim_trailing; of CD lcm, simple; of quadratic timesteps euler, sigmas"
MODEL = reader.FULL
NOT_READ = {NAME: {(MULTI, PEFT_LORA)}}
"""It takes the names of this file, and applies none of its layers."""
APPLIED = re.compile(r"\((\d+) / (\d+)\) LoRA tensors have been applied")


def sampler(case: Path) -> dict[str, Any]:
    """Return the settings that the page "Use it in" names for a student."""
    if case.name == CD:
        return {"sample_method": "lcm", "scheduler": "simple"}
    if case.name == MULTI:
        return {"sample_method": "ddim_trailing"}
    nodes = json.loads((case / "comfyui.json").read_text(encoding="utf-8"))["nodes"]
    (sigmas,) = (n["widgets_values"][0] for n in nodes if n["type"] == "ManualSigmas")
    return {"sample_method": "euler", "sigmas": sigmas}


class Pipeline:
    """The engine's context, called as diffusers' pipeline is; it does not tell its timesteps.

    There is one at a time, as each holds the whole model.
    """

    last: ClassVar[Any] = None
    log: ClassVar[list[str]] = []
    callback: ClassVar[Any] = None
    """What the engine calls with each line of its log: it has to outlive all models."""

    def __init__(self, model: Path, settings: dict[str, Any], lora: Path | None = None) -> None:
        import stable_diffusion_cpp as engine

        self.settings = settings
        self.lora = f"<lora:{lora}:1>" if lora else ""
        if Pipeline.last:
            Pipeline.last.close()
        Pipeline.last = self.pipeline = engine.StableDiffusion(
            model_path=str(model),
            wtype="f32",
            rng_type="cpu",
            sampler_rng_type="cpu",
            verbose=False,
        )
        self.log.clear()
        if not Pipeline.callback:
            Pipeline.callback = engine.sd_log_callback(
                lambda _, text, __: Pipeline.log.append(text.decode())
            )
            engine.sd_set_log_callback(Pipeline.callback, None)

    def set_progress_bar_config(self, **_: Any) -> None:
        """There is no bar."""

    def __call__(self, prompt: str, *, generator: torch.Generator, **given: Any) -> Any:
        """Sample an image of [height, width, 3], from 0 to 1."""
        (image,) = self.pipeline.generate_image(
            prompt + self.lora, seed=generator.initial_seed(), width=given["width"],
            height=given["height"], sample_steps=given["num_inference_steps"],
            cfg_scale=given["guidance_scale"], **self.settings,
        )  # fmt: skip
        return SimpleNamespace(images=[np.asarray(image.convert("RGB")) / 255])


def load(file: str, case: Path) -> Pipeline:
    if file in (CHECKPOINT, str(FOLDER)):
        return Pipeline(case / file, sampler(case))
    return Pipeline(case.parent / BASE_FILE, sampler(case), case / file)


def keys(file: str, pipeline: Pipeline, case: Path) -> list[int] | None:
    """Return how many of a LoRA file's tensors the engine says that it applied."""
    found = APPLIED.search("".join(pipeline.log))
    if not pipeline.lora or not found:
        return None
    return [int(number) for number in found.groups()]


if __name__ == "__main__":
    more = (DIFFUSERS_LORA, PEFT_LORA, CHECKPOINT, str(FOLDER))
    files = {KOHYA_LORA: (MULTI, CD, QUADRATIC)} | dict.fromkeys(more, (MULTI,))
    found = [
        row
        for file, students in files.items()
        for row in rows({file: partial(load, file)}, students, keys=partial(keys, file))
    ]
    sys.stdout.write("\n")
    report((PACKAGE,), found)

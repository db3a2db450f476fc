"""OpenVINO GenAI, for which optimum-intel converts a folder: the whole model, or base and LoRA.

Of a LoRA it reads linear layers and 1×1 convolutions by kohya's names: the student here is one of
the preset "transformer". Other convolutions are an error there.
"""

# pyright: reportMissingImports=false
import shutil
import tempfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.programs.reader import (
    BASE,
    DIFFUSERS_LORA,
    FOLDER,
    KOHYA_LORA,
    TRANSFORMER_STUDENT,
    Loader,
    report,
    rows,
)  # fmt: skip

ENVIRONMENTS = {
    "openvino-genai": (
        "openvino-genai==2026.4.1.0", "openvino==2026.4.1", "optimum-intel==2.2.0",
        "diffusers==0.39.0", "transformers==5.5.4", "torch==2.13.0",
    )
}  # fmt: skip
SETTINGS = "4 steps, guidance 1, the artefact's scheduler, INFERENCE_PRECISION_HINT f32"
NOT_READ = {"openvino-genai": {(TRANSFORMER_STUDENT, DIFFUSERS_LORA)}}
"""What it applies nothing of, with a warning for each layer."""


class Pipeline:
    """OpenVINO's pipeline, called as diffusers' is; it does not tell its timesteps."""

    def __init__(self, folder: Path, lora: Path | None = None) -> None:
        import openvino_genai

        self.genai = openvino_genai
        given: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        if lora is not None:
            given["adapters"] = openvino_genai.AdapterConfig(openvino_genai.Adapter(str(lora)))
        self.pipeline = openvino_genai.Text2ImagePipeline(str(folder), "CPU", **given)

    def set_progress_bar_config(self, **_: Any) -> None:
        """There is no bar."""

    def __call__(self, prompt: str, *, generator: torch.Generator, **given: Any) -> Any:
        """Sample an image of [height, width, 3], from 0 to 1."""
        settings = ("num_inference_steps", "guidance_scale", "height", "width")
        image = self.pipeline.generate(
            prompt,
            generator=self.genai.TorchGenerator(generator.initial_seed()),
            **{name: given[name] for name in settings},
        )
        return SimpleNamespace(images=list(np.array(image.data) / 255))


@cache
def converted(folder: Path) -> Path:
    """Convert a diffusers folder, in the weights' own precision, and return the new folder."""
    from optimum.exporters.openvino import main_export

    output = Path(tempfile.mkdtemp(dir=folder.parent))
    main_export(str(folder), output=output, task="text-to-image", convert_tokenizer=True)
    return output


def load(case: Path) -> Pipeline:
    return Pipeline(converted(case / FOLDER))


def load_lora(file: str) -> Loader:
    """Return what loads a LoRA file beside the base model, with the student's scheduler."""

    def load(case: Path) -> Pipeline:
        base = converted(case.parent / BASE)
        shutil.copytree(case / "scheduler", base / "scheduler", dirs_exist_ok=True)
        return Pipeline(base, case / file)

    return load


if __name__ == "__main__":
    loras = {file: load_lora(file) for file in (DIFFUSERS_LORA, KOHYA_LORA)}
    report(
        ("openvino-genai", "optimum-intel", "transformers"),
        [*rows({str(FOLDER): load}), *rows(loras, [TRANSFORMER_STUDENT])],
    )

"""ONNX Runtime, to which optimum-onnx converts the folder of the whole model."""

# pyright: reportMissingImports=false
from pathlib import Path
from typing import Any

from benchmarks.programs.reader import FOLDER, report, rows

ENVIRONMENTS = {
    "onnx-runtime": (
        "optimum-onnx==0.1.0", "optimum==2.1.0", "onnxruntime==1.32.0", "onnx==1.23.2",
        "diffusers==0.35.2", "transformers==4.57.6", "torch==2.13.0",
    )
}  # fmt: skip
SETTINGS = "4 steps, guidance 1, the folder's scheduler, optimum-onnx"


def load(case: Path) -> Any:
    from optimum.onnxruntime import ORTStableDiffusionPipeline

    return ORTStableDiffusionPipeline.from_pretrained(str(case / FOLDER), export=True)


if __name__ == "__main__":
    report(("onnxruntime", "optimum-onnx", "transformers"), rows({str(FOLDER): load}))

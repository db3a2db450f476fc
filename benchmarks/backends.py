"""What other backends and precisions make of a bundled student's images, beside torch in fp32.

    python -m benchmarks.backends -o benchmarks/results/backends.json

Trains the student, 150 steps, where it is missing. Every row has the same prompts and noise; the
difference of prompt accuracy is paired by them.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from benchmarks.students import run
from fewstep.evaluation.intervals import mean, proportion
from fewstep.evaluation.metrics.prompt_accuracy import all_right, verdicts
from fewstep.evaluation.prompts import held_out_prompts
from fewstep.evaluation.provenance import commit, machine
from fewstep.export.export import ExportOptions, export_artefact
from fewstep.files import write_file
from fewstep.quickstart import CONFIGS
from fewstep.student.pipeline import FewStepPipeline

PROMPT_SEED = 779
DESIGNS = {
    "torch, fp32": ("torch", torch.float32, False),
    "OpenVINO, fp32": ("openvino", torch.float32, False),
    "OpenVINO, bf16": ("openvino", torch.bfloat16, False),
    "OpenVINO, int8 weights": ("openvino", torch.float32, True),
    "OpenVINO, int8 weights, bf16": ("openvino", torch.bfloat16, True),
}
"""By name: backend, precision, and whether the weights have 8 bits. The first is compared with."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/backends"))
    parser.add_argument("--num", type=int, default=2000, help="prompts")
    args = parser.parse_args()
    torch.set_num_threads(1)
    student, rows = args.folder / "student", []
    settings = ("--set", "train.steps=150", "--set", "train.preview_every=0")
    distill = (sys.executable, "-m", "fewstep", "distill", str(CONFIGS / "multi-boundary.toml"))
    run(*distill, "--run", str(student), *settings)
    for int8 in (False, True):
        options = ExportOptions(openvino=True, int8=int8)
        export_artefact(str(student), args.folder / f"int8-{int8}", options)
    prompts = held_out_prompts(args.num, PROMPT_SEED)
    exact = right = None
    for name, (backend, dtype, int8) in DESIGNS.items():
        pipeline = FewStepPipeline.from_pretrained(
            args.folder / f"int8-{int8}", backend=backend, dtype=dtype
        )
        images = np.stack([np.asarray(one.image) for one in pipeline(prompts, seed=0)])
        own = all_right(verdicts(images, prompts))
        exact, right = (images, own) if exact is None or right is None else (exact, right)
        off = np.abs(images.astype(int) - exact)
        rows.append({
            "design": name,
            "largest": int(off.max()),
            "mean": float(off.mean()),
            "prompt_accuracy": asdict(proportion(own)),
            "difference": asdict(mean(own - right)) if own is not right else None,
        })  # fmt: skip
        print(rows[-1], flush=True)
    results = {
        "command": f"python -m benchmarks.backends -o {args.out}",
        "commit": commit(),
        "machine": machine(),
        "rows": rows,
    }
    write_file(args.out, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

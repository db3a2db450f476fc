"""Whole models with a student inside, in diffusers with transformers from 4.44 to today's.

    python benchmarks/whole_models.py

Exports random students of the bundled teacher and compares what diffusers makes of the folder and
of the single file with the students' own images. Writes benchmarks/results/whole_models.json. Other
versions are installed as load_matrix.py does it.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import whole_models_reader as reader
from load_matrix import OLD, ROOT, environment, write_rows
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(ROOT))

from benchmarks.programs.cases import Case, student
from fewstep.export.export import ExportOptions, export_artefact
from fewstep.export.write import write_student
from fewstep.models.base import TEXT_MODEL
from fewstep.models.loading import bundled_folder, load_model
from fewstep.student.pipeline import FewStepPipeline

RESULTS = ROOT / "benchmarks" / "results" / "whole_models.json"
LIMITS = {"fp32": 2.0, "fp16": 6.0}
"""The largest difference, of 255, up to which an image is the same: fp16 rounds the VAE as well."""
WRONG = "wrong: names without text_model."
"""A case that has to fail before transformers 5.6, as a check of the test itself."""
READS_BOTH_NAMES = (5, 6)

SHARED = ("requests", "urllib3", "charset_normalizer", "idna", "certifi")
ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "current": (),
    "old": OLD,
    "4.57": ("diffusers==0.35.2", "transformers==4.57.6", "tokenizers==0.22.2",
             "huggingface_hub==0.36.2", *SHARED),
    "5.5": ("diffusers==0.40.0", "transformers==5.5.4", "tokenizers==0.22.2",
            "huggingface_hub==1.33.0", "httpx", "httpcore", *SHARED),
}  # fmt: skip


def write_cases(folder: Path) -> None:
    """Export every case, and put the student's own images beside it."""
    for method in ("multi-boundary-cd", "cd"):
        with tempfile.TemporaryDirectory() as source:
            write_student(Path(source), student(Case(method), load_model("bundled"), "bundled"))
            for precision in LIMITS:
                case = folder / f"{method}, {precision}"
                options = ExportOptions(fused=True, checkpoint=True, precision=precision)
                export_artefact(source, case, options)
                pipeline = FewStepPipeline.from_pretrained(case)
                images = pipeline(reader.PROMPTS, seed=reader.SEED)
                np.save(case / "images.npy", np.stack([np.asarray(i.image) for i in images]) / 255)
    wrong = shutil.copytree(folder / "cd, fp32", folder / WRONG)
    path = wrong / "fused" / "diffusers" / "text_encoder" / "model.safetensors"
    flat = {name.removeprefix(TEXT_MODEL): value for name, value in load_file(path).items()}
    save_file(flat, path, {"format": "pt"})


def rows_of(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each case and file of one environment."""
    version = tuple(map(int, report["versions"]["transformers"].split(".")[:2]))
    for case, differences in report["differences"].items():
        for file, found in differences.items():
            is_wrong = case == WRONG and file == "diffusers folder"
            yield {
                "versions": report["versions"],
                "case": case,
                "file": file,
                "largest_difference": round(found, 2),
                "same": found <= LIMITS[case.rpartition(" ")[2] if case != WRONG else "fp32"],
                "should_be": not is_wrong or version >= READS_BOTH_NAMES,
            }


def main() -> None:
    """Measure, write the table, and fail if an image is not what it should be."""
    rows, base = [], str(bundled_folder())
    with tempfile.TemporaryDirectory() as folder:
        write_cases(Path(folder))
        for name, packages in ENVIRONMENTS.items():
            command = [sys.executable, reader.__file__, folder, base]
            done = subprocess.run(
                command, env=environment(name, packages), text=True, capture_output=True
            )
            if done.returncode:
                sys.exit(f"the reader failed with {name}: {done.stderr[-2000:]}")
            rows += rows_of(json.loads(done.stdout.splitlines()[-1]))
    write_rows(RESULTS, {"limits": LIMITS}, rows, "same", "should_be")


if __name__ == "__main__":
    main()

"""The load matrix: every LoRA file in every library that runs here, against the trained UNet.

    python benchmarks/load_matrix.py

Writes benchmarks/results/load_matrix.json. Other versions of the libraries are installed under
build/readers/, and that folder comes before the present environment on the path.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch
from load_matrix_truth import ALPHA, RANK, output_of, thin_unet, trained
from safetensors.torch import save_file

from fewstep.evaluation.provenance import commit, machine
from fewstep.export.lora_formats import (
    Weights,
    write_diffusers_lora,
    write_kohya_lora,
    write_peft_lora,
)
from fewstep.files import write_file
from fewstep.models.adapters import PRESETS, folded

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "load_matrix.json"
READER = Path(__file__).with_name("load_matrix_reader.py")
TOLERANCE = {"fp32": 1e-4, "fp16": 1e-3}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
WRONG = "wrong: scale not folded"
"""A case that has to fail, as a check of the test itself."""

OLD = (
    "diffusers==0.30.3",
    "peft==0.8.2",
    "transformers==4.44.2",
    "tokenizers==0.19.1",
    "huggingface_hub==0.24.6",
    "accelerate==0.34.2",
    "requests",
    "urllib3",
    "charset_normalizer",
    "idna",
    "certifi",
    "importlib_metadata",
    "zipp",
)
ENVIRONMENTS: dict[str, tuple[str, ...]] = {"current": (), "old": OLD}
"""The packages that replace those of the present environment, by name."""


def write_files(folder: Path, weights: Weights, truth: torch.Tensor) -> None:
    """Write the three formats, and the output that a UNet should have with them."""
    folder.mkdir(parents=True)
    write_diffusers_lora(folder, weights)
    write_peft_lora(folder, weights)
    write_kohya_lora(folder / "student.safetensors", weights, {"ss_output_name": "student"})
    save_file({"answer": truth.contiguous()}, folder / "truth.safetensors")


def write_cases(folder: Path) -> None:
    """Write a folder for every preset and precision, and a wrong one."""
    for preset, targets in PRESETS.items():
        weights, truth = trained(tuple(targets))
        for name, dtype in DTYPES.items():
            cast = {n: w.to(dtype) for n, w in folded(weights, ALPHA / RANK).items()}
            write_files(folder / f"{preset}, {name}", cast, truth)
    weights, truth = trained(tuple(PRESETS["all"]))
    write_files(folder / WRONG, folded(weights, 1.0), truth)


def tolerance(case: str) -> float:
    """Return the largest allowed error of the output."""
    return TOLERANCE[case.rpartition(" ")[2]]


def environment(name: str, packages: tuple[str, ...]) -> dict[str, str]:
    """Install an environment's packages if they are missing, and return its variables."""
    folder = ROOT / "build" / "readers" / name
    if packages and not folder.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
        subprocess.run([*pip, str(folder), *packages], check=True)
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    return {**os.environ, **offline, "PYTHONPATH": str(folder) if packages else ""}


def measure(folder: Path) -> list[dict[str, Any]]:
    """Return one row for each environment, reader and case; environments run in parallel."""
    command = [sys.executable, str(READER), str(folder)]
    readers = [
        subprocess.Popen(
            command, env=environment(name, packages), text=True, stdout=subprocess.PIPE
        )
        for name, packages in ENVIRONMENTS.items()
    ]
    outputs = [reader.communicate()[0] for reader in readers]
    if any(reader.returncode for reader in readers):
        sys.exit("a reader failed; its error is above")
    return [row for text in outputs for row in rows_of(json.loads(text.splitlines()[-1]))]


def rows_of(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each reader and case of one environment."""
    for case, errors in report["errors"].items():
        should_load = case != WRONG
        limit = tolerance(case) if should_load else TOLERANCE["fp16"]
        for reader, error in errors.items():
            library, _, file = reader.partition(", ")
            yield {
                "reader": f"{library} {report['versions'][library]}",
                "versions": report["versions"],
                "file": file,
                "case": case,
                "error": float(f"{error:.3g}"),
                "loads": error <= limit,
                "should_load": should_load,
            }


def main() -> None:
    """Measure, write the table, and fail if a file does not load as it should."""
    without = output_of(thin_unet())
    for targets in PRESETS.values():
        assert (trained(tuple(targets))[1] - without).abs().max() > 0.1, "the LoRA has no effect"
    with tempfile.TemporaryDirectory() as folder:
        write_cases(Path(folder))
        rows = measure(Path(folder))
    write_rows(RESULTS, {"tolerance": TOLERANCE}, rows, "loads", "should_load")


def write_rows(
    path: Path, settings: dict[str, Any], rows: list[dict[str, Any]], found: str, expected: str
) -> NoReturn:
    """Write a table of readers, and exit: with 1 if a row's `found` is not what is `expected`."""
    header = {
        "command": f"python benchmarks/{path.stem}.py",
        "commit": commit(),
        "machine": machine(),
    }
    write_file(path, json.dumps(header | settings | {"rows": rows}, indent=1) + "\n")
    wrong = [row for row in rows if row[found] != row[expected]]
    print(f"{len(rows) - len(wrong)} of {len(rows)} as expected; wrote {path}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

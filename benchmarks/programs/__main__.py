"""Run what is exported in the programs that are installed, and compare with fewstep's images.

    python -m benchmarks.programs --environments DIR -o benchmarks/results/programs.json [NAMES]

DIR holds one virtual environment a program, by its name; --build installs what is missing.
Without NAMES, all that are there run. The model is the bundled one, the students random LoRAs.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))  # the other benchmarks are scripts

from whole_models import student  # noqa: E402

from benchmarks.programs import (  # noqa: E402
    in_diffusers,
    in_onnx_runtime,
    in_openvino,
    reader,
)
from fewstep.evaluation.provenance import commit, machine  # noqa: E402
from fewstep.export.export import ExportOptions, export_artefact  # noqa: E402
from fewstep.export.write import write_student  # noqa: E402
from fewstep.files import write_file  # noqa: E402
from fewstep.models.loading import bundled_folder  # noqa: E402
from fewstep.student.load import read_artefact  # noqa: E402
from fewstep.student.pipeline import FewStepPipeline  # noqa: E402

STUDENTS = {name: (name, "all") for name in reader.STUDENTS}
STUDENTS[reader.TRANSFORMER_STUDENT] = ("cd", "transformer")
"""By name: the method, and the layers that have a LoRA."""
LIMIT = 2.0
"""The largest difference, of 255, up to which an image is the same."""
PROGRAMS: dict[str, ModuleType] = {
    name: module
    for module in (in_diffusers, in_onnx_runtime, in_openvino)
    for name in module.ENVIRONMENTS
}


def write_cases(folder: Path) -> dict[str, list[int]]:
    """Export every case with its own images beside it; return the timesteps it is trained for."""
    timesteps = {}
    shutil.copytree(bundled_folder(), folder / reader.BASE)
    for name, (method, preset) in STUDENTS.items():
        case = folder / name
        with tempfile.TemporaryDirectory() as source:
            write_student(Path(source), student(method, preset))
            export_artefact(source, case, ExportOptions(fused=True))
        images = FewStepPipeline.from_pretrained(case)(reader.PROMPTS, seed=reader.SEED)
        np.save(case / "images.npy", np.stack([np.asarray(i.image) for i in images]) / 255)
        timesteps[name] = [int(t) for t in read_artefact(case)[0].timesteps()]
    return timesteps


def build(name: str, folder: Path) -> None:
    """Make a program's environment of its pinned packages, or complete it."""
    if not (folder / "bin" / "pip").exists():
        venv.create(folder, with_pip=True)
    install = [folder / "bin" / "python", "-m", "pip", "install", "-q"]
    subprocess.run([*install, *PROGRAMS[name].ENVIRONMENTS[name]], check=True)


def run(name: str, python: Path, cases: Path, trained: dict[str, list[int]]) -> list[dict]:
    """Return a program's rows."""
    command = [str(python), "-m", PROGRAMS[name].__name__, str(cases)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=cases, env=environment, text=True, capture_output=True)
    if done.returncode:
        sys.exit(f"{name} failed: {done.stderr[-2000:]}")
    report = json.loads(done.stdout.splitlines()[-1])
    return [row_of(name, report["versions"], row, trained[row["case"]]) for row in report["rows"]]


def row_of(name: str, versions: dict, found: dict[str, Any], trained: list[int]) -> dict[str, Any]:
    """Return a row, with its verdict: right if timesteps, keys and image are the student's.

    A file that a program is known not to read is "not read", and wrong if it is read after all.
    """
    keys, difference = found["keys"], round(found["difference"], 3)
    is_right = (
        found["timesteps"] in (None, trained)
        and (keys is None or keys[0] == keys[1])
        and difference <= LIMIT
    )
    verdict = "right" if is_right else "wrong"
    if (found["case"], found["file"]) in getattr(PROGRAMS[name], "NOT_READ", ()):
        verdict = "wrong" if is_right else "not read"
    row = {"program": name, "versions": versions, "student": found["case"], "file": found["file"]}
    return row | {
        "settings": PROGRAMS[name].SETTINGS,
        "timesteps": found["timesteps"],
        "keys": keys,
        "largest_difference": difference,
        "verdict": verdict,
        "commit": commit(),
    }


def merged(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the file's rows with those of the programs that ran replaced."""
    ran = {row["program"] for row in rows}
    old = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    return sorted(
        [row for row in old if row["program"] not in ran] + rows,
        key=lambda row: (list(PROGRAMS).index(row["program"]), row["student"], row["file"]),
    )


def arguments() -> argparse.Namespace:
    """Read the command line; names that are unknown or not installed are refused."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.programs")
    parser.add_argument("--environments", type=Path, required=True, metavar="DIR")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--build", action="store_true", help="install what is missing")
    parser.add_argument("names", nargs="*", metavar="NAMES", help=", ".join(PROGRAMS))
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in PROGRAMS]:
        parser.error(f"unknown program {unknown[0]!r}; known: {', '.join(PROGRAMS)}")
    for name in (args.names or PROGRAMS) if args.build else ():
        build(name, args.environments / name)
    there = [name for name in PROGRAMS if (args.environments / name / "bin" / "python").exists()]
    if missing := [name for name in args.names if name not in there]:
        parser.error(f"{missing[0]!r} is not in {args.environments}: add --build to install it")
    args.names = args.names or there
    if not args.names:
        parser.error(f"no program is in {args.environments}: add --build to install them")
    return args


def main() -> None:
    """Run the programs, write the table, and fail if one reads otherwise than is known."""
    args, rows = arguments(), []
    with tempfile.TemporaryDirectory() as folder:
        trained = write_cases(Path(folder))
        for name in args.names:
            python = args.environments.absolute() / name / "bin" / "python"
            rows += run(name, python, Path(folder), trained)
    command = f"python -m benchmarks.programs --environments DIR -o {args.output}"
    result = {"command": command, "machine": machine(), "limit": LIMIT}
    result |= {"prompts": len(reader.PROMPTS), "rows": merged(args.output, rows)}
    write_file(args.output, json.dumps(result, indent=1) + "\n")
    for row in rows:
        print(row["program"], row["student"], row["verdict"], row["largest_difference"])
    sys.exit(1 if any(row["verdict"] == "wrong" for row in rows) else 0)


if __name__ == "__main__":
    main()

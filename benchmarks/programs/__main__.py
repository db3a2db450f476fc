"""Run what is exported in the programs that are installed, and compare with fewstep's images.

    python -m benchmarks.programs --environments DIR -o benchmarks/results/programs.json [NAMES]

DIR holds one virtual environment a program, by its name; --build installs what is missing. Programs
that are repositories need --repository NAME=FOLDER as well. Without NAMES, all that are there run.
The students are random LoRAs, of the bundled model or of random ones of Stable Diffusion 1.5's
shape.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.programs import (
    cases,
    in_comfyui,
    in_diffusers,
    in_invokeai,
    in_onnx_runtime,
    in_openvino,
    in_sd_scripts,
    in_stable_diffusion_cpp,
    reader,
)
from fewstep.evaluation.provenance import commit, machine
from fewstep.files import write_file

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 2.0
"""The largest difference, of 255, up to which an image is the same."""
PROGRAMS: dict[str, ModuleType] = {
    name: module
    for module in (
        in_diffusers,
        in_onnx_runtime,
        in_openvino,
        in_comfyui,
        in_invokeai,
        in_stable_diffusion_cpp,
        in_sd_scripts,
    )
    for name in module.ENVIRONMENTS
}


def base_of(name: str) -> str:
    """Return the base model of a program's students."""
    return getattr(PROGRAMS[name], "MODEL", reader.BUNDLED)


def build(name: str, folder: Path) -> None:
    """Make a program's environment of its pinned packages, or complete it."""
    if not (folder / "bin" / "pip").exists():
        venv.create(folder, with_pip=True)
    install = [folder / "bin" / "python", "-m", "pip", "install", "-q"]
    subprocess.run([*install, *PROGRAMS[name].ENVIRONMENTS[name]], check=True)


def run(
    name: str, python: Path, folder: Path, repository: Path | None, trained: dict[str, list[int]]
) -> list[dict[str, Any]]:
    """Return a program's rows."""
    command = [python, "-m", PROGRAMS[name].__name__, folder, *([repository] if repository else [])]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)
    if done.returncode:
        sys.exit(f"{name} failed: {done.stderr[-2000:]}")
    report = json.loads(done.stdout.splitlines()[-1])
    return [row_of(name, report["versions"], row, trained[row["case"]]) for row in report["rows"]]


def row_of(name: str, versions: dict, found: dict[str, Any], trained: list[int]) -> dict[str, Any]:
    """Return a row, with its verdict: right if timesteps, keys and image are the student's.

    A file that a program is known not to read is "not read", and wrong if it is read after all.
    """
    keys, difference, case = found["keys"], found["difference"], found["case"]
    is_right = (
        found["timesteps"] in (None, trained)
        and (keys is None or keys[0] == keys[1])
        and difference <= LIMIT
    )
    verdict = "right" if is_right else "wrong"
    if (case, found["file"]) in getattr(PROGRAMS[name], "NOT_READ", {}).get(name, ()):
        verdict = "wrong" if is_right else "not read"
    row = {"program": name, "versions": versions, "base": base_of(name), "student": case}
    return row | {
        "file": found["file"],
        "settings": PROGRAMS[name].SETTINGS,
        "timesteps": found["timesteps"],
        "keys": keys,
        "largest_difference": round(difference, 3),
        "verdict": verdict,
        "commit": commit(),
    }


def merged(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the file's rows, each with its base model, and those of what ran replaced."""
    ran = {row["program"] for row in rows}
    old = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    return sorted(
        [{"base": base_of(row["program"])} | row for row in old if row["program"] not in ran]
        + rows,
        key=lambda row: (list(PROGRAMS).index(row["program"]), row["student"], row["file"]),
    )


def has_all(name: str, repositories: dict[str, Path]) -> bool:
    """Return whether a program needs no repository, or has it."""
    return not hasattr(PROGRAMS[name], "REPOSITORY") or name in repositories


def repositories(parser: argparse.ArgumentParser, given: list[str]) -> dict[str, Path]:
    """Return the folders of repositories by their program; refuse what is none."""
    found = {name: Path(folder).absolute() for name, _, folder in (g.partition("=") for g in given)}
    for name, folder in found.items():
        file = getattr(PROGRAMS.get(name), "REPOSITORY", None)
        if file is None or not (folder / file).is_file():
            parser.error(f"--repository is {name}={folder}, which is no {name}: it has no {file}")
    return found


def arguments() -> argparse.Namespace:
    """Read the command line; names that are unknown or not installed are refused."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.programs")
    parser.add_argument("--environments", type=Path, required=True, metavar="DIR")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--build", action="store_true", help="install what is missing")
    parser.add_argument("--repository", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("names", nargs="*", metavar="NAMES", help=", ".join(PROGRAMS))
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in PROGRAMS]:
        parser.error(f"unknown program {unknown[0]!r}; known: {', '.join(PROGRAMS)}")
    for name in (args.names or PROGRAMS) if args.build else ():
        build(name, args.environments / name)
    there = [name for name in PROGRAMS if (args.environments / name / "bin" / "python").exists()]
    if missing := [name for name in args.names if name not in there]:
        parser.error(f"{missing[0]!r} is not in {args.environments}: add --build to install it")
    args.repositories = repositories(parser, args.repository)
    args.names = args.names or [name for name in there if has_all(name, args.repositories)]
    if lacking := [name for name in args.names if not has_all(name, args.repositories)]:
        parser.error(f"{lacking[0]!r} is a repository: name its folder by --repository NAME=FOLDER")
    if not args.names:
        parser.error(f"no program is in {args.environments}: add --build to install them")
    return args


def main() -> None:
    """Run the programs, write the table, and fail if one reads otherwise than is known."""
    args, rows = arguments(), []
    for base in {base_of(name): None for name in args.names}:
        with tempfile.TemporaryDirectory() as folder:
            students = Path(folder) / base
            trained = cases.write_cases(base, students)
            for name in args.names:
                if base_of(name) == base:
                    python = args.environments.absolute() / name / "bin" / "python"
                    rows += run(name, python, students, args.repositories.get(name), trained)
    command = f"python -m benchmarks.programs --environments DIR -o {args.output}"
    result = {"command": command, "machine": machine(), "limit": LIMIT}
    result |= {"prompts": len(reader.PROMPTS), "rows": merged(args.output, rows)}
    write_file(args.output, json.dumps(result, indent=1) + "\n")
    for row in rows:
        cells = ("program", "student", "file", "verdict", "keys", "largest_difference")
        print(*(row[cell] for cell in cells))
    sys.exit(1 if any(row["verdict"] == "wrong" for row in rows) else 0)


if __name__ == "__main__":
    main()

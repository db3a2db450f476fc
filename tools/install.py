"""Install fewstep and its tools into a virtual environment, with the right torch build.

    python tools/install.py FOLDER [CONSTRAINTS]

Needs only the standard library. Without an NVIDIA GPU all versions are those of
constraints/current.txt, and torch is the CPU build; with one, pip chooses torch. CONSTRAINTS is
another file of versions, whose torch is installed on every machine.
"""

import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints" / "current.txt"
OF_TODAY = ("page", "openvino")
"""The groups of tools that need, or are tested with, the versions of today alone."""
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"


def main(folder: Path, versions: Path = CONSTRAINTS) -> None:
    """Create the environment if it is missing, and bring it up to date."""
    gpu = has_gpu() and versions == CONSTRAINTS
    pins = versions.read_text().splitlines(keepends=True)
    python = create(folder)
    constraints = folder / "constraints.txt"
    unpinned = "".join(pin for pin in pins if not pin.startswith("torch=="))
    constraints.write_text(unpinned)  # torch is installed separately

    say(f"installing into {folder}, with torch for {'CUDA' if gpu else 'the CPU'}; the first time")
    say("this downloads up to " + ("3 GB" if gpu else "500 MB") + " and takes some minutes")
    install = pip(python, "install", "--constraint", str(constraints))
    run([*install, "--upgrade", "pip"])  # older versions do not know dependency groups
    if not gpu:
        torch = install_cpu_torch(install, pinned("torch", versions), pinned("torch"))
        constraints.write_text(f"{unpinned}torch=={torch}\n")
    more = OF_TODAY if versions == CONSTRAINTS else ()
    run([*install, "--editable", str(ROOT), *groups("dev", "docs", *more)])
    say(f"ready: {folder / 'bin' / 'fewstep'}")


def create(folder: Path) -> Path:
    """Return the environment's Python; create it if it is missing or does not run."""
    python = folder / "bin" / "python"
    if python.exists() and succeeds(pip(python, "--version")):
        return python
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").exists():
        stop(f"{folder} is not a virtual environment and not empty; choose another VENV")
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        version = ".".join(map(str, sys.version_info[:2]))
        stop(
            f"{sys.executable} cannot create virtual environments; on Debian and Ubuntu: "
            f"apt install python{version}-venv"
        )
    try:
        venv.create(folder, clear=True, with_pip=True, symlinks=True)
    except (OSError, subprocess.CalledProcessError) as error:
        stop(f"cannot create a virtual environment in {folder}: {error}")
    return python


def has_gpu() -> bool:
    return shutil.which("nvidia-smi") is not None and succeeds(["nvidia-smi", "--list-gpus"])


def install_cpu_torch(install: list[str], version: str, fallback: str) -> str:
    """Install a torch without CUDA, which PyPI's build for Linux includes; return its version.

    pip gets the exact name of the CPU build: first with its configured indexes, because a mirror or
    a folder of wheels may have it, then with PyTorch's index. If this version is not available, the
    version `fallback` is installed.
    """
    if platform.system() != "Linux":
        return version  # PyPI's build is the CPU build
    pytorch = ["--extra-index-url", CPU_WHEELS, "--timeout", "15", "--retries", "1"]
    for other in dict.fromkeys((version, fallback)):
        torch = f"torch=={other}+cpu"
        for index in ([], pytorch):
            if succeeds([*install, "--dry-run", "--no-deps", *index, torch]):
                if other != version:
                    say(f"torch {version} is not available as a CPU build; installing {torch}")
                run([*install, *index, torch])
                return other
    say(f"torch=={version}+cpu is not available; PyPI's build includes several GB of CUDA")
    return version


def pinned(name: str, constraints: Path = CONSTRAINTS) -> str:
    """Return the version of a package in a file of constraints."""
    for line in constraints.read_text().splitlines():
        if line.startswith(f"{name}=="):
            return line.removeprefix(f"{name}==")
    stop(f"{constraints} does not pin {name}; give a version: make constraints TORCH=…")


def groups(*names: str) -> list[str]:
    """Return pip's arguments for these dependency groups of pyproject.toml."""
    return [part for name in names for part in ("--group", f"{ROOT / 'pyproject.toml'}:{name}")]


def pip(python: Path, *arguments: str) -> list[str]:
    """Return a pip command, which prints only errors if the output is not a terminal."""
    quiet = [] if sys.stdout.isatty() else ["-qq"]
    return [str(python), "-m", "pip", "--disable-pip-version-check", *quiet, *arguments]


def succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def run(command: list[str]) -> None:
    """Run pip, and exit with a message if it fails."""
    if subprocess.run(command, check=False).returncode:
        stop(
            "pip could not install the packages (its error is above); check the network and the "
            "disk space, and run make again: downloads are kept"
        )


def say(message: str) -> None:
    print(f"fewstep: {message}", flush=True)


def stop(message: str) -> NoReturn:
    sys.exit(f"fewstep: {message}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

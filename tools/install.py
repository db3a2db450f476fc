"""Install fewstep and its tools into a virtual environment, with the torch that fits the machine.

    python tools/install.py FOLDER [CONSTRAINTS]

Needs the standard library alone. Without an NVIDIA GPU every version is that of
constraints/current.txt and torch its CPU build; with one, torch is left to pip. CONSTRAINTS is
another file of versions, whose torch is asked for on every machine.
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
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"


def main(folder: Path, wanted: Path = CONSTRAINTS) -> None:
    """Make the environment if there is none, and bring it up to date."""
    gpu = has_gpu() and wanted == CONSTRAINTS
    pins = wanted.read_text().splitlines(keepends=True)
    python = create(folder)
    constraints = folder / "constraints.txt"
    unpinned = "".join(pin for pin in pins if not pin.startswith("torch=="))
    constraints.write_text(unpinned)  # torch is asked for by itself, perhaps in another version

    say(f"installing into {folder}, with torch for {'CUDA' if gpu else 'the CPU'}; the first time")
    say("this downloads up to " + ("3 GB" if gpu else "500 MB") + " and takes some minutes")
    install = pip(python, "install", "--constraint", str(constraints))
    run([*install, "--upgrade", "pip"])  # an older one knows no dependency groups
    if not gpu:
        torch = install_cpu_torch(install, pinned("torch", wanted), pinned("torch"))
        constraints.write_text(f"{unpinned}torch=={torch}\n")
    run([*install, "--editable", str(ROOT), *groups("dev", "docs")])
    say(f"ready: {folder / 'bin' / 'fewstep'}")


def create(folder: Path) -> Path:
    """Return the environment's Python, made anew where it is missing or does not run."""
    python = folder / "bin" / "python"
    if python.exists() and succeeds(pip(python, "--version")):
        return python
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").exists():
        stop(f"{folder} holds something else than a virtual environment; choose another VENV")
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        version = ".".join(map(str, sys.version_info[:2]))
        stop(
            f"{sys.executable} lacks the parts that make virtual environments; on Debian and "
            f"Ubuntu: apt install python{version}-venv"
        )
    try:
        venv.create(folder, clear=True, with_pip=True, symlinks=True)
    except (OSError, subprocess.CalledProcessError) as error:
        stop(f"cannot make a virtual environment in {folder}: {error}")
    return python


def has_gpu() -> bool:
    return shutil.which("nvidia-smi") is not None and succeeds(["nvidia-smi", "--list-gpus"])


def install_cpu_torch(install: list[str], version: str, instead: str) -> str:
    """Install a torch without CUDA, which on Linux PyPI's own build brings along, and return which.

    pip is asked for the CPU build by its exact name: first where it looks anyway, as a mirror or a
    folder of wheels may have it, then with PyTorch's index. Where it has none of this version, the
    version `instead` is asked for.
    """
    if platform.system() != "Linux":
        return version  # PyPI's build is the CPU build
    pytorch = ["--extra-index-url", CPU_WHEELS, "--timeout", "15", "--retries", "1"]
    for other in dict.fromkeys((version, instead)):
        torch = f"torch=={other}+cpu"
        for where in ([], pytorch):
            if succeeds([*install, "--dry-run", "--no-deps", *where, torch]):
                if other != version:
                    say(f"torch {version} is out of reach as a CPU build; {torch} takes its place")
                run([*install, *where, torch])
                return other
    say(f"torch=={version}+cpu is out of reach; taking PyPI's, with several gigabytes of CUDA")
    return version


def pinned(name: str, constraints: Path = CONSTRAINTS) -> str:
    """Return the version of a package in a file of constraints."""
    for line in constraints.read_text().splitlines():
        if line.startswith(f"{name}=="):
            return line.removeprefix(f"{name}==")
    stop(f"{constraints} does not pin {name}; name a version: make constraints TORCH=…")


def groups(*names: str) -> list[str]:
    """Return pip's arguments for these dependency groups of pyproject.toml."""
    return [part for name in names for part in ("--group", f"{ROOT / 'pyproject.toml'}:{name}")]


def pip(python: Path, *arguments: str) -> list[str]:
    """Return a pip command, which says nothing but errors where nobody is watching."""
    quiet = [] if sys.stdout.isatty() else ["-qq"]
    return [str(python), "-m", "pip", "--disable-pip-version-check", *quiet, *arguments]


def succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def run(command: list[str]) -> None:
    """Run pip, and end with a sentence where it fails."""
    if subprocess.run(command, check=False).returncode:
        stop(
            "pip could not install the packages (its reason is above); check the network and the "
            "space on the disk, and run make again: what was downloaded is kept"
        )


def say(message: str) -> None:
    print(f"fewstep: {message}", flush=True)


def stop(message: str) -> NoReturn:
    sys.exit(f"fewstep: {message}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

"""Write constraints/current.txt: the exact versions of all packages in a fresh install.

    python tools/constraints.py [TORCH]

Installs the newest releases that pyproject.toml allows, and the CPU build of torch (of the given
version, else of the pinned one), into a temporary environment, and lists its packages.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import install

HEADER = """\
# Exact versions of fewstep's dependencies, its tools and the documentation's, on a CPU machine.
# Written by `make constraints`; `make` installs these, except torch where there is an NVIDIA GPU.
"""


def main(torch: str) -> None:
    """Install into an environment and write its versions."""
    with tempfile.TemporaryDirectory() as folder:
        python = install.create(Path(folder) / "venv")
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text(f"torch=={torch}\n")
        newest = install.pip(python, "install", "--upgrade", "--constraint", str(constraints))
        install.run([*newest, "pip"])
        install.install_cpu_torch(newest, torch, torch)
        tools = install.groups("dev", "docs", *install.OF_TODAY)
        install.run([*newest, "--editable", str(install.ROOT), *tools])
        freeze = install.pip(python, "freeze", "--all", "--exclude-editable")
        frozen = subprocess.run(freeze, check=True, text=True, stdout=subprocess.PIPE).stdout
    pins = [line.removesuffix("+cpu") for line in frozen.splitlines() if "==" in line]
    install.CONSTRAINTS.write_text(HEADER + "\n".join(sorted(pins, key=str.lower)) + "\n")
    install.say(f"{len(pins)} versions written to {install.CONSTRAINTS}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else install.pinned("torch"))

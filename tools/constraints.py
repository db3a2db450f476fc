"""Write constraints/current.txt: the exact versions of everything, as a fresh install gives them.

    python tools/constraints.py [TORCH]

Fills a temporary environment with the newest releases that pyproject.toml allows and the CPU build
of torch (of the version given, else of the one pinned today), and reads it back.
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
    """Fill an environment and write down what is in it."""
    with tempfile.TemporaryDirectory() as folder:
        python = install.create(Path(folder) / "venv")
        free = Path(folder) / "constraints.txt"
        free.write_text(f"torch=={torch}\n")
        newest = install.pip(python, "install", "--upgrade", "--constraint", str(free))
        install.run([*newest, "pip"])
        install.install_cpu_torch(newest, torch, torch)
        install.run([*newest, "--editable", str(install.ROOT), *install.groups("dev", "docs")])
        freeze = install.pip(python, "freeze", "--all", "--exclude-editable")
        frozen = subprocess.run(freeze, check=True, text=True, stdout=subprocess.PIPE).stdout
    pins = [line.removesuffix("+cpu") for line in frozen.splitlines() if "==" in line]
    install.CONSTRAINTS.write_text(HEADER + "\n".join(sorted(pins, key=str.lower)) + "\n")
    install.say(f"{len(pins)} versions written to {install.CONSTRAINTS}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else install.pinned("torch"))

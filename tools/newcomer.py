"""Walk a newcomer's first minutes: build, install into an empty environment, and use it there.

    python -m tools.newcomer [FOLDER]

The wheel is built from the sdist, and installed by the commands of the Dockerfile; then follow the
demo, the commands that come after it, and the page. Nothing of the checkout is on the path.
"""

import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from pathlib import Path

from tools import install

DOCKERFILE = install.ROOT / "Dockerfile"
QUICK = "runs/quickstart-quick"
WALK = (
    ("--version",),
    ("quickstart", "--quick"),
    ("sample", f"{QUICK}/cd", "a red heart above a blue star", "-o", "out.png"),
    ("compare", QUICK, "--prompt", "a red heart above a blue star", "-o", "comparison"),
    ("report", "comparison", f"{QUICK}/cd", "-o", "report.html"),
    ("plan", f"{QUICK}/cd/config.toml", "--cpu", "--json"),
    ("doctor", "--json"),
)
LEFT = (f"{QUICK}/report.html", "out.png", "comparison/grid.png", "report.html")
"""The files that have to be there at the end."""


def main(folder: Path) -> None:
    """Build, install and walk below an empty folder."""
    clock = time.monotonic()
    wheel = build(folder / "dist")
    say(clock, f"built {wheel.name}")
    environment = install_wheel(wheel, folder / "venv")
    say(clock, "installed it into an empty environment")
    here = folder / "here"
    here.mkdir()
    fewstep = [str(folder / "venv" / "bin" / "fewstep")]
    for arguments in WALK:
        subprocess.run([*fewstep, *arguments], cwd=here, env=environment, check=True)
        say(clock, f"fewstep {' '.join(arguments)}")
    missing = [name for name in LEFT if not (here / name).is_file()]
    if missing:
        install.stop(f"the walk did not leave {', '.join(missing)}")
    open_page([*fewstep, "ui", "--port", "7899"], here, environment)
    say(clock, "fewstep ui answered, and ended at a signal")


def build(dist: Path) -> Path:
    """Build the sdist, from what it holds the wheel, and return the wheel."""
    dist.mkdir(parents=True)
    backend = "from setuptools import build_meta; import sys; build_meta.build_{}(sys.argv[1])"
    command = [sys.executable, "-c"]
    subprocess.run(
        [*command, backend.format("sdist"), dist], cwd=install.ROOT, check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(dist, filter="data")
    source = dist / sdist.name.removesuffix(".tar.gz")
    subprocess.run(
        [*command, backend.format("wheel"), dist], cwd=source, check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    (wheel,) = dist.glob("*.whl")
    return wheel


def install_wheel(wheel: Path, venv: Path) -> dict[str, str]:
    """Run the Dockerfile's commands with the wheel in a new environment; return its variables.

    Versions are those of constraints/current.txt, with the CPU build of torch.
    """
    python = install.create(venv)
    constraints = venv / "constraints.txt"
    pins = install.CONSTRAINTS.read_text()
    constraints.write_text(re.sub(r"(?m)^(torch==[\d.]+)$", r"\1+cpu", pins))
    environment = {
        name: value for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "VIRTUAL_ENV")
    }  # fmt: skip
    environment |= {"PATH": f"{python.parent}{os.pathsep}{environment['PATH']}"}
    installing = environment | variables(DOCKERFILE) | {
        "PIP_CONSTRAINT": str(constraints), "PIP_TIMEOUT": "15", "PIP_RETRIES": "1",
        "PIP_QUIET": "1",
    }  # fmt: skip
    for command in commands(DOCKERFILE):
        subprocess.run(
            command.replace("/src", str(wheel)), shell=True, check=True, env=installing, cwd=venv
        )
    return environment


def commands(dockerfile: Path) -> list[str]:
    """Return the commands that a Dockerfile runs."""
    return re.findall(r"(?m)^RUN (.+)$", dockerfile.read_text())


def variables(dockerfile: Path) -> dict[str, str]:
    """Return the variables of a Dockerfile's stage for the CPU."""
    stage = dockerfile.read_text().split(" AS cpu\n")[1].split("\nFROM ")[0]
    return dict(re.findall(r"(?m)^ENV (\w+)=(\S+)$", stage))


def open_page(command: list[str], here: Path, environment: dict[str, str]) -> None:
    """Start the page, ask it once, and end it by a signal."""
    with subprocess.Popen(
        command, cwd=here, env=environment, stdout=subprocess.PIPE, text=True
    ) as page:
        assert page.stdout is not None
        address = re.search(r"http://\S+", page.stdout.readline())
        try:
            if not address:
                install.stop("fewstep ui did not say where it is")
            with urllib.request.urlopen(address[0], timeout=60) as answer:
                if b"fewstep" not in answer.read():
                    install.stop(f"{address[0]} answered something else")
        finally:
            page.send_signal(signal.SIGTERM)
    if page.returncode != 128 + signal.SIGTERM:
        install.stop(f"fewstep ui ended with code {page.returncode}")


def say(clock: float, message: str) -> None:
    install.say(f"{time.monotonic() - clock:4.0f} s  {message}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]).absolute())
    else:
        with tempfile.TemporaryDirectory(prefix="fewstep-newcomer-") as made:
            main(Path(made))

"""What a number comes from: the machine and the commit, without host names or paths."""

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import fewstep


def provenance() -> dict[str, str]:
    """Return the entries of results.json that say where its numbers come from."""
    command = " ".join(["fewstep", *sys.argv[1:]])
    return {"command": command, "commit": commit(), "machine": machine()}


def machine() -> str:
    """Describe the machine: processor, cores, GPU if there is one, versions."""
    import torch  # here, so that a report can be read and drawn without it

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    threads = torch.get_num_threads()
    parts = [processor(), f"{threads} thread" + ("" if threads == 1 else "s"), *gpus]
    versions = f"torch {metadata.version('torch')}, Python {platform.python_version()}"
    return ", ".join([*parts, versions])


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name and its number of cores as the system counts them."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


NO_CODE = (":!docs", ":!*.md", ":!benchmarks/results")
"""Paths that change no result: docs and results may be written while others are measured."""


def commit(root: Path | None = None) -> str:
    """Return a checkout's git commit, by default this code's, "-dirty" if it was changed since.

    Installed, it is the version.
    """
    root = root or Path(fewstep.__file__).parent.parent
    if (root / ".git").exists() and (git := shutil.which("git")):
        describe = [git, "-C", str(root), "describe", "--always", "--match", "no-tag"]
        found = subprocess.run(describe, capture_output=True, text=True, check=False)
        if found.returncode == 0:
            changes = [git, "-C", str(root), "diff", "--quiet", "HEAD", "--", ".", *NO_CODE]
            changed = subprocess.run(changes, check=False).returncode
            return found.stdout.strip() + ("-dirty" if changed else "")
    return f"fewstep {fewstep.__version__}"

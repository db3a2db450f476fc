"""Whether this machine can train: versions that fit each other, devices, precision, disk."""

import importlib
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil
from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fewstep import versions
from fewstep.config import Precision

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate")
NEEDED_DISK = 10e9
"""Bytes for a model of the size of Stable Diffusion, a cache and some checkpoints."""

MINIMUM_DISK = 1e9
"""Bytes below which not even a checkpoint of such a model can be written."""

BUILDS = "install the torch build for your GPU, see https://pytorch.org/get-started"

Status = Literal["ok", "slow", "bad"]
COLOURS = {"ok": "green", "slow": "yellow", "bad": "red"}


@dataclass(frozen=True)
class Finding:
    """The state of one component, and the fix if it is bad."""

    name: str
    message: str
    status: Status = "ok"
    fix: str = ""


def examine(folder: Path = Path()) -> list[Finding]:
    """Check everything; `folder` is where runs would be written."""
    return [*check_versions(), *imports(), *devices(), *disks(folder)]


def check_versions() -> Iterator[Finding]:
    """Yield the version of every dependency, and what does not fit."""
    yield Finding("Python", platform.python_version())
    for library in ("fewstep", *LIBRARIES):
        texts = (importlib.metadata.requires(library) or []) if versions.installed(library) else []
        for requirement in map(Requirement, texts):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                finding = check_requirement(requirement, library)
                if library == "fewstep" or finding.status != "ok":
                    yield finding
    yield from known_problems()


def check_requirement(requirement: Requirement, library: str) -> Finding:
    """Compare the installed version with the one that `library` requires."""
    name, specifier = requirement.name, requirement.specifier
    version = versions.installed(name)
    if version is None:
        return Finding(name, f"missing; {library} needs {name}{specifier}", "bad", versions.FIX)
    if not specifier.contains(version, prereleases=True):
        return Finding(name, f"{version}; {library} needs {specifier}", "bad", versions.FIX)
    return Finding(name, str(version))


def known_problems() -> Iterator[Finding]:
    """Yield the installed versions that are known not to work together, or to be slow."""
    for name, text in versions.found(versions.KNOWN_BAD):
        yield Finding(name, text, "bad", versions.FIX)
    for name, text in versions.found(versions.LIMITED):
        yield Finding(name, text, "slow")
    for text, effect in versions.SLOW:
        if found := versions.matching(text):
            yield Finding(found.split()[0], f"{found}: {effect}", "slow")


def imports() -> Iterator[Finding]:
    """Yield the libraries that cannot be imported, with their error messages."""
    for library in LIBRARIES:
        try:
            importlib.import_module(library)
        except (ImportError, OSError, RuntimeError, AttributeError, TypeError, ValueError) as error:
            yield Finding(f"import {library}", shortened(error), "bad", versions.FIX)


def shortened(error: Exception) -> str:
    """Return an error's message in one line of 200 characters or fewer."""
    return " ".join(str(error).split())[:200]


def devices() -> Iterator[Finding]:
    """Yield processor and GPUs, each with the precision that training would choose."""
    try:
        import torch
    except (ImportError, OSError):
        return  # imports() reports it
    from fewstep.models.precision import multiplies_bf16, precision_for

    memory = psutil.virtual_memory().total / 1e9
    threads = torch.get_num_threads()
    yield Finding("processor", f"{os.cpu_count()} cores, {memory:.0f} GB, {threads} torch threads")
    if not torch.cuda.is_available():
        why = "this torch is a CPU build"
        if built := torch.version.cuda:
            why = f"torch is built for CUDA {built} but finds no GPU: check the driver"
        faster = ", faster with model.precision = mixed" if multiplies_bf16() else ""
        yield Finding("GPU", f"none ({why}); small models train in fp32{faster}", "slow")
        yield check_attention("cpu", "fp32")
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        major, minor = torch.cuda.get_device_capability(number)
        precision = precision_for("auto", f"cuda:{number}")
        yield Finding(
            f"GPU {number}",
            f"{torch.cuda.get_device_name(number)}, capability {major}.{minor}, "
            f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free; trains in {precision}",
            "ok" if free > 0.5 * total else "slow",
        )
        yield check_attention(f"cuda:{number}", precision)
        yield Finding(f"configs for GPU {number}", configs_for(total / 2**30))


def configs_for(gib: float) -> str:
    """Return which configs fit a card of so many GiB, in words.

    >>> configs_for(7.7)
    'sd15-8gb for Stable Diffusion 1 and 2, none for XL'
    """
    from fewstep.training.gpus import recipe_for

    one, xl = (recipe_for(gib, family) or "none" for family in ("sd15", "sdxl"))
    return f"{one} for Stable Diffusion 1 and 2, {xl} for XL"


def check_attention(device: str, precision: Precision) -> Finding:
    """Multiply and attend as training would, and name the kernel that torch chooses for it."""
    import torch
    from torch.nn import functional
    from torch.nn.attention import SDPBackend

    from fewstep.models.precision import DTYPES

    name = f"attention on {device}"
    try:
        heads = torch.ones(1, 8, 64, 40, device=device, dtype=DTYPES[precision])  # as SD 1.5's
        kernel = SDPBackend(torch._fused_sdp_choice(heads, heads, heads)).name.lower()
        attended = functional.scaled_dot_product_attention(heads, heads, heads)
        (heads.mT @ attended).sum().item()
    except RuntimeError as error:
        targets = ", ".join(torch.cuda.get_arch_list()) or "CPUs"
        message = f"fails in {precision} ({shortened(error)}); this torch is built for {targets}"
        return Finding(name, message, "bad", BUILDS)
    message = f"works in {precision}, kernel {kernel.replace('_', ' ')}"
    return Finding(name, message, "slow" if kernel == "math" else "ok")


def disks(folder: Path) -> Iterator[Finding]:
    """Yield the free space for runs and for downloaded models."""
    cache = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    for name, path, fix in (
        ("disk for runs", folder.resolve(), "free disk space, or put --run on another disk"),
        ("disk for models", cache, "free disk space, or set HF_HOME to a folder on another disk"),
    ):
        existing = next(parent for parent in (path, *path.parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        message = f"{free / 1e9:.0f} GB free in {existing}"
        if free <= NEEDED_DISK:
            message += f"; SD 1.5 needs about {NEEDED_DISK / 1e9:.0f}"
        status = "bad" if free < MINIMUM_DISK else "slow" if free <= NEEDED_DISK else "ok"
        yield Finding(name, message, status, fix if status == "bad" else "")


def verdict(findings: list[Finding]) -> str:
    """Return one sentence about all, with the fixes for what is bad."""
    bad = {finding.name: finding.fix for finding in findings if finding.status == "bad"}
    slow = [finding.name for finding in findings if finding.status == "slow"]
    if bad:
        return f"not ready: fix {', '.join(bad)}; {'; '.join(dict.fromkeys(bad.values()))}"
    if slow:
        return f"ready, with limits: {', '.join(dict.fromkeys(slow))}"
    return "ready"


def as_json(findings: list[Finding]) -> str:
    """Return the findings and the verdict for programs."""
    entries = {"verdict": verdict(findings), "findings": [asdict(one) for one in findings]}
    return json.dumps(entries, indent=2)


def print_findings(findings: list[Finding]) -> None:
    """Print the findings as a table, and the verdict."""
    table = Table("", "", show_header=False)
    for finding in findings:
        table.add_row(finding.name, Text(finding.message, COLOURS[finding.status]))
    Console().print(table, verdict(findings))

"""Whether this machine can train: versions that fit each other, devices, precision, disk."""

import importlib
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.version import Version
from rich.console import Console
from rich.table import Table

from fewstep.config import Precision

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate")
NEEDED_DISK = 10e9
"""Bytes for a model of the size of Stable Diffusion, a cache and some checkpoints."""

LEAST_DISK = 1e9
"""Bytes below which not even a checkpoint of such a model can be written."""

KNOWN_BAD = (
    ("diffusers", "<0.31", "transformers", ">=5", "diffusers cannot be imported"),
    ("torch", "<2.5", "diffusers", ">=0.42", "diffusers cannot be imported"),
    ("transformers", "<5", "huggingface_hub", ">=1", "transformers cannot be imported"),
)
"""Pairs that their own metadata allows or that pip leaves behind, and what happens."""

SLOW = (
    ("peft", "<0.14", "adapters on a base in half precision then compute in fp32, and slowly"),
)  # fmt: skip

VERSIONS = "constraints/ has tested versions"
BUILDS = "https://pytorch.org/get-started says which torch a card needs"

Verdict = Literal["ok", "slow", "bad"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and the way out where it is bad."""

    what: str
    told: str
    verdict: Verdict = "ok"
    way_out: str = ""


def examine(folder: Path = Path()) -> list[Finding]:
    """Look at everything; `folder` is where runs would be written."""
    return [*versions(), *imports(), *devices(), *disks(folder)]


def installed(name: str) -> Version | None:
    try:
        return Version(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> Iterator[Finding]:
    """Yield the version of every dependency, and what does not fit."""
    yield Finding("Python", platform.python_version())
    direct = [Requirement(text) for text in importlib.metadata.requires("fewstep") or []]
    for need in direct:
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            yield fitting(need, "fewstep")
    for library in LIBRARIES:
        for text in (importlib.metadata.requires(library) or []) if installed(library) else []:
            need = Requirement(text)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                finding = fitting(need, library)
                if finding.verdict != "ok":
                    yield finding
    yield from pairs()


def fitting(need: Requirement, by: str) -> Finding:
    """Say whether what is installed is what a library needs."""
    version = installed(need.name)
    if version is None:
        told = f"missing; {by} needs {need.name}{need.specifier}"
        return Finding(need.name, told, "bad", VERSIONS)
    if not need.specifier.contains(version, prereleases=True):
        return Finding(need.name, f"{version}; {by} needs {need.specifier}", "bad", VERSIONS)
    return Finding(need.name, str(version))


def pairs() -> Iterator[Finding]:
    """Yield the pairs that are installed and known not to work, or to be slow."""
    for one, below, other, above, effect in KNOWN_BAD:
        if is_version(one, below) and is_version(other, above):
            told = f"{installed(one)} with {other} {installed(other)}: {effect}"
            yield Finding(one, told, "bad", VERSIONS)
    for name, below, effect in SLOW:
        if is_version(name, below):
            yield Finding(name, f"{installed(name)}: {effect}", "slow")


def is_version(name: str, specifier: str) -> bool:
    version = installed(name)
    return version is not None and Requirement(f"{name}{specifier}").specifier.contains(version)


def imports() -> Iterator[Finding]:
    """Yield the libraries that cannot be imported, with their own words."""
    for library in LIBRARIES:
        try:
            importlib.import_module(library)
        except (ImportError, OSError, RuntimeError, AttributeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            yield Finding(f"import {library}", reason, "bad", VERSIONS)


def devices() -> Iterator[Finding]:
    """Yield processor and GPUs, each with the precision that training would choose."""
    try:
        import torch
    except (ImportError, OSError):
        return  # told already
    from fewstep.models.precision import precision_for

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    told = f"{os.cpu_count()} cores, {memory:.0f} GB, torch uses {torch.get_num_threads()} threads"
    yield Finding("processor", told)
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = f"torch is built for CUDA {built} and sees none: check the driver" if built else (
            "this torch is the CPU's build"
        )  # fmt: skip
        yield Finding("GPU", f"none ({why}); small models train in fp32", "slow")
        yield computes("cpu", "fp32")
        return
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
        yield computes(f"cuda:{number}", precision)


def computes(device: str, precision: Precision) -> Finding:
    """Multiply and attend as training would, and name the kernel that torch chooses for it."""
    import torch
    from torch.nn import functional
    from torch.nn.attention import SDPBackend

    from fewstep.models.precision import DTYPES

    what = f"attention on {device}"
    try:
        heads = torch.ones(1, 8, 64, 40, device=device, dtype=DTYPES[precision])  # as SD 1.5's
        kernel = SDPBackend(torch._fused_sdp_choice(heads, heads, heads)).name.lower()
        attended = functional.scaled_dot_product_attention(heads, heads, heads)
        (heads.mT @ attended).sum().item()
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        cards = ", ".join(torch.cuda.get_arch_list())
        told = (
            f"cannot compute in {precision} ({reason}); this torch is built for {cards or 'CPUs'}"
        )
        return Finding(what, told, "bad", BUILDS)
    told = f"computed in {precision}, kernel {kernel.replace('_', ' ')}"
    return Finding(what, told, "slow" if kernel == "math" else "ok")


def disks(folder: Path) -> Iterator[Finding]:
    """Yield the room for runs and for downloaded models."""
    cache = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    places = (
        ("disk for runs", folder.resolve(), "make room, or put --run on another disk"),
        ("disk for models", cache, "make room, or set HF_HOME to a folder on another disk"),
    )
    for what, path, way_out in places:
        there = next(parent for parent in (path, *path.parents) if parent.exists())
        free = shutil.disk_usage(there).free
        hint = "" if free > NEEDED_DISK else f"; SD 1.5 needs about {NEEDED_DISK / 1e9:.0f}"
        told = f"{free / 1e9:.0f} GB free in {there}{hint}"
        if free < LEAST_DISK:
            yield Finding(what, told, "bad", way_out)
        else:
            yield Finding(what, told, "slow" if hint else "ok")


def verdict(findings: list[Finding]) -> str:
    """Return one sentence about all, with the ways out of what is bad."""
    bad = {finding.what: finding.way_out for finding in findings if finding.verdict == "bad"}
    slow = [finding.what for finding in findings if finding.verdict == "slow"]
    if bad:
        return f"not ready: mend {', '.join(bad)}; {'; '.join(dict.fromkeys(bad.values()))}"
    if slow:
        return f"ready, with limits: {', '.join(dict.fromkeys(slow))}"
    return "ready"


def print_findings(findings: list[Finding]) -> None:
    colours = {"ok": "green", "slow": "yellow", "bad": "red"}
    table = Table("", "", show_header=False)
    for finding in findings:
        colour = colours[finding.verdict]
        table.add_row(finding.what, f"[{colour}]{finding.told}[/{colour}]")
    Console().print(table, verdict(findings))

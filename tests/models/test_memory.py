"""The memory that is free is that of the machine, or less where a container has a limit."""

import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from fewstep.errors import UserError
from fewstep.models import memory
from fewstep.models.loading import load_model
from fewstep.models.memory import available_memory, limits
from tests.tiny import tiny_pipeline


def group(folder, limit, used, cached, version=2):
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current") if version == 2 else (
        "memory.limit_in_bytes", "memory.usage_in_bytes")  # fmt: skip
    for name, value in zip(names, (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    key = "inactive_file" if version == 2 else "total_inactive_file"
    (folder / "memory.stat").write_text(f"anon 7\n{key} {cached}\n")


def test_the_tightest_of_the_groups_above_a_process_limits_it(tmp_path):
    (membership := tmp_path / "cgroup").write_text("0::/job/step\n")
    root = tmp_path / "groups"
    group(root / "job" / "step", "max", 500, 100)
    group(root / "job", 1000, 600, 50)
    assert [*limits(root, membership)] == [1000 - 600 + 50]


def test_a_container_sees_its_own_group_at_the_root(tmp_path):
    (membership := tmp_path / "cgroup").write_text("0::/\n")
    group(tmp_path / "groups", 4000, 1000, 0)
    assert [*limits(tmp_path / "groups", membership)] == [3000]


def test_the_older_version_of_groups_is_read_too(tmp_path):
    (membership := tmp_path / "cgroup").write_text("3:cpu:/\n2:memory:/job\n")
    group(tmp_path / "groups" / "memory" / "job", 900, 400, 30, version=1)
    group(tmp_path / "groups" / "memory", 2**63 - 4096, 400, 30, version=1)
    assert [*limits(tmp_path / "groups", membership)] == [530]


def test_without_groups_there_is_no_limit(tmp_path):
    assert [*limits(tmp_path, tmp_path / "none")] == []


def test_free_memory_is_the_least_of_machine_and_limits(monkeypatch):
    virtual, swap = SimpleNamespace(available=50), SimpleNamespace(free=5)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: virtual)
    monkeypatch.setattr(memory.psutil, "swap_memory", lambda: swap)
    for left, free in (([], 55), ([60, 40], 40), ([-3], 0)):
        monkeypatch.setattr(memory, "limits", lambda *paths, left=left: iter(left))
        assert available_memory() == free


def test_weights_without_room_are_refused_before_they_are_read(monkeypatch):
    read = []
    monkeypatch.setattr("fewstep.models.parts.read_network", lambda *a, **k: read.append(a))
    monkeypatch.setattr(memory, "available_memory", lambda: 2**18)
    with pytest.raises(UserError, match=r"weights of .* KiB of main memory.*256\.00 KiB are free"):
        load_model(tiny_pipeline())
    assert read == []


GROWS = """
import resource, torch
from fewstep.models.memory import keep_freed_memory
{first}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        tensors = [torch.ones(1_000_000) for _ in range(20)]
        del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(); print(faults())
"""
"""A program that frees 80 MB and asks for them again; it prints how many pages that took."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's allocator")
def test_freed_memory_is_used_again_without_new_pages():
    gives_back = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20)}  # whatever it learns to keep
    before, after = (
        int(
            subprocess.check_output(
                [sys.executable, "-c", GROWS.format(first=first)], env=gives_back
            )
        )
        for first in ("", "keep_freed_memory()")
    )
    assert 10 * after < before

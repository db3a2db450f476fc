"""What Windows lacks is not needed: shown on Linux, with the platform faked where that goes."""

import ast
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from fewstep.config import to_toml
from fewstep.training.distill import distill_run
from fewstep.training.run_dir import peak_memory
from tests.test_imports import FILES, imports, libraries
from tests.tiny import tiny_config

ROOT = Path(__file__).parents[1]
UNIX_MODULES = {"resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog"}
UNIX_NAMES = {
    "sysconf", "fork", "forkpty", "getuid", "geteuid", "uname", "getpgid", "killpg", "setsid",
    "SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1", "mkfifo", "getloadavg",
}  # fmt: skip

SPAWNED = """
import multiprocessing
import sys

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    from fewstep.config import load_config
    from fewstep.training.distill import distill_run
    from pathlib import Path

    distill_run(load_config(sys.argv[1], ["data.workers=2"]), Path(sys.argv[2]))
"""


@pytest.mark.parametrize("module", FILES)
def test_no_module_needs_what_only_unix_has(module):
    assert not libraries(imports(module, whole_file=False)) & UNIX_MODULES
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not names & UNIX_NAMES


def test_the_peak_of_memory_is_windows_own(monkeypatch):
    used = namedtuple("used", "rss peak_wset")(1, 123_456_789)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(psutil.Process, "memory_info", lambda self: used)
    assert peak_memory() == 123_456_789


@pytest.mark.slow
def test_workers_that_are_spawned_read_what_this_process_would(tmp_path):
    config = tiny_config(steps=2)
    assert distill_run(config, tmp_path / "alone") == 2
    (tmp_path / "config.toml").write_text(to_toml(config))
    (tmp_path / "program.py").write_text(SPAWNED)
    subprocess.run(
        [sys.executable, "program.py", "config.toml", "spawned"], cwd=tmp_path, check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    alone, spawned = (
        load_file(tmp_path / run / "artefact" / "pytorch_lora_weights.safetensors")
        for run in ("alone", "spawned")
    )
    assert all(torch.equal(alone[name], spawned[name]) for name in alone)

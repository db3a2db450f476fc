"""A process that was started with others finds them, or says what is missing."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from accelerate import PartialState

from fewstep.config import load_config
from fewstep.distributed import ALONE, Processes, number_started
from fewstep.errors import SettingError
from fewstep.training.distill import distill_run
from tests.tiny import tiny_config

VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
WHOLE = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def set_all(monkeypatch, values):
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2 .*RANK and LOCAL_RANK and MASTER_ADDR and MASTER"),
        (WHOLE, r"MASTER_PORT not set: start every process by torchrun .*or unset WORLD_SIZE"),
        (WHOLE | {"MASTER_PORT": "tcp"}, "MASTER_PORT is 'tcp' in the environment, no number"),
        (WHOLE | {"MASTER_PORT": "99999"}, "MASTER_PORT is 99999; it has to be below 65536"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is 2 in the environment and WORLD_SIZE is 2"),
        ({"RANK": "1"}, "RANK is 1 in the environment and WORLD_SIZE is not set"),
        ({"WORLD_SIZE": "0"}, "RANK is 0 .*WORLD_SIZE is 0"),
    ],
)
def test_half_an_environment_is_one_sentence_before_any_work(
    monkeypatch, tmp_path, values, message
):
    set_all(monkeypatch, values)
    with pytest.raises(SettingError, match=message):
        distill_run(tiny_config(), tmp_path / "run", "cpu")
    assert not (tmp_path / "run").exists()


def test_a_port_that_another_run_has_is_one_sentence(monkeypatch):
    monkeypatch.setattr(PartialState, "_shared_state", {})  # as in a process of its own
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        set_all(monkeypatch, WHOLE | {"MASTER_PORT": port})
        with pytest.raises(
            SettingError, match=rf"cannot join .* port {port} .*MASTER_PORT is free"
        ):
            Processes.started("cpu")


@pytest.mark.parametrize(
    "values",
    [
        {"LOCAL_RANK": "0"},
        {"LOCAL_RANK": "-1"},
        {"RANK": "0", "LOCAL_RANK": "0"},
        {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"},
        {"WORLD_SIZE": ""},
    ],
)
def test_what_notebooks_and_pods_leave_is_one_process(monkeypatch, values):
    set_all(monkeypatch, values)
    assert number_started() == 1
    assert Processes.started("cpu") == ALONE


def test_a_run_with_a_stray_local_rank_trains_to_its_end(monkeypatch, tmp_path):
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert distill_run(tiny_config(steps=2), tmp_path / "run", "cpu") == 2
    assert load_config(tmp_path / "run" / "config.toml").train.processes == 1


@pytest.mark.parametrize(("rank", "awaited"), [("0", "rank 1"), ("1", "rank 0")])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_waits_says_for_whom_and_can_be_stopped(rank, awaited, signum):
    program = (
        "import fewstep.distributed as d; from fewstep.__main__ import run_command\n"
        "d.PATIENCE = 0.5\n"
        "run_command(lambda: d.Processes.started('cpu'))"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = WHOLE | {"RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port}
    with subprocess.Popen(
        [sys.executable, "-c", program], env=os.environ | place, stderr=subprocess.PIPE, text=True
    ) as process:
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        try:
            assert process.stderr is not None
            said = next(line for line in process.stderr if line.startswith("fewstep:"))
            assert f"rank {rank} of 2 waits for {awaited} at 127.0.0.1, port {port}" in said
            started = time.monotonic()
            process.send_signal(signum)
            assert process.wait(timeout=20) == -signum
            assert time.monotonic() - started < 10
        finally:
            watchdog.cancel()
            process.kill()

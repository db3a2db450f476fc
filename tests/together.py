"""Several processes of one run, as torchrun starts them."""

import multiprocessing
import os
import socket
from collections.abc import Callable

from accelerate import PartialState

SPAWN = multiprocessing.get_context("spawn")  # a fork can hang in the threads of its parent


def run_together(count: int, work: Callable[..., object], *told: object) -> list[int | None]:
    """Call `work` with each rank, and what it is told, in processes; return their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    processes = [
        SPAWN.Process(target=_join, args=(rank, count, port, work, *told)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
        process.kill()
    return [process.exitcode for process in processes]


def _join(rank: int, count: int, port: str, work: Callable[..., object], *told: object) -> None:
    PartialState._reset_state()
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
                   "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": port}  # fmt: skip
    work(rank, *told)

"""Several processes of one run, as torchrun starts them, but forked: nothing is loaded again."""

import multiprocessing
import os
import socket
from collections.abc import Callable

from accelerate import PartialState

FORK = multiprocessing.get_context("fork")


def run_together(count: int, work: Callable[[int], None]) -> list[int | None]:
    """Call `work` with each rank in a process of its own; return their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    processes = [
        FORK.Process(target=_join, args=(rank, count, port, work)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
        process.kill()
    return [process.exitcode for process in processes]


def _join(rank: int, count: int, port: str, work: Callable[[int], None]) -> None:
    PartialState._reset_state()
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
                   "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": port}  # fmt: skip
    work(rank)

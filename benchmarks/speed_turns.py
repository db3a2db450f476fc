"""Timing in alternation: designs in their own processes take turns, A B A B.

Only one runs at a time; with its own process each has its own allocator and peak memory.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from fewstep.errors import UserError

RESAMPLES = 2000


@contextmanager
def started(worker: Callable[..., None], *args: object) -> Iterator["Remote"]:
    """Start a worker in a new process, and end it afterwards.

    It first sends its report; then it answers each number of steps with the seconds of each, and 0
    with its peak memory in bytes.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=run_worker, args=(worker, theirs, *args), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Remote(ours)
    finally:
        ours.close()
        process.join(timeout=60)
        if process.is_alive():
            process.kill()


def run_worker(worker: Callable[..., None], pipe: Connection, *args: object) -> None:
    """Run a worker, and send its error to the waiting process if it fails."""
    try:
        worker(pipe, *args)
    except (EOFError, BrokenPipeError):
        pass  # the work is done
    except Exception as error:  # any failure of a design is a row of the results
        pipe.send(Failed(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))


@dataclass(frozen=True)
class Failed:
    """Why a design could not be timed, for example too little memory."""

    reason: str


class WorkFailed(UserError):
    """A design that cannot run on this machine; the message comes from the worker."""


@dataclass(frozen=True)
class Remote:
    """A worker, as seen by the timing process."""

    pipe: Connection

    def receive(self) -> Any:
        """Wait for the worker's next message."""
        try:
            message = self.pipe.recv()
        except EOFError as error:
            raise WorkFailed("the process ended, most likely out of memory") from error
        if isinstance(message, Failed):
            raise WorkFailed(message.reason)
        return message

    def seconds(self, count: int) -> list[float]:
        """Let the worker take `count` steps and return the seconds of each."""
        self.pipe.send(count)
        return self.receive()

    def peak(self) -> int:
        """Return the worker's peak memory in bytes."""
        self.pipe.send(0)
        return self.receive()


def in_turns(a: Remote, b: Remote, rounds: int, count: int) -> tuple[list[float], list[float]]:
    """Return the median seconds of both in each round; the first one alternates by round."""
    ours, theirs = [], []
    for number in range(rounds):
        for remote, seconds in [(a, ours), (b, theirs)][:: 1 if number % 2 == 0 else -1]:
            seconds.append(float(np.median(remote.seconds(count))))
    return ours, theirs


def median(values: ArrayLike, seed: int = 0) -> dict[str, float]:
    """Return the median with its 95 % bootstrap interval.

    >>> median([2.0, 2.0, 2.0])
    {'value': 2.0, 'low': 2.0, 'high': 2.0, 'n': 3}
    """
    numbers = np.asarray(values, np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(numbers), (RESAMPLES, len(numbers)))
    low, high = np.percentile(np.median(numbers[drawn], axis=1), (2.5, 97.5))
    return {
        "value": float(np.median(numbers)), "low": float(low), "high": float(high),
        "n": len(numbers),
    }  # fmt: skip


def timed(step: Callable[[], object], count: int, device: str) -> list[float]:
    """Return the seconds of each of `count` steps.

    A GPU is synchronised once, after the last step, and each step gets its share of the time, so
    that steps which let the host run ahead benefit.
    """
    if device == "cuda":
        clock = time.perf_counter()
        for _ in range(count):
            step()
        torch.cuda.synchronize()
        return [(time.perf_counter() - clock) / count] * count
    seconds = []
    for _ in range(count):
        clock = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - clock)
    return seconds


def reset_peak(device: str) -> None:
    """Reset the peak memory."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: str) -> int:
    """Return the peak memory since `reset_peak`: of the GPU's allocator, else of the process.

    A process's mapped files, such as libraries and caches, are left out.
    """
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith(" kB")}
    return (int(kilobytes["VmHWM"]) - int(kilobytes["RssFile"])) * 1024


def flops_of(step: Callable[[], object]) -> int:
    """Return the floating-point operations of one step's convolutions, products and attention."""
    cpu = torch.ops.aten  # unknown to the counter
    mapping = {
        cpu._scaled_dot_product_flash_attention_for_cpu: attention_flops,
        cpu._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_flops,
    }
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        step()
    return counter.get_total_flops()


def attention_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


def attention_backward_flops(
    grad: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any
) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


def matmul_rate(device: str, dtype: torch.dtype, side: int = 8192, seconds: float = 1.0) -> float:
    """Return the highest FLOP/s of a large matrix product on this machine."""
    side = side if device == "cuda" else min(side, 1024)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    timed(lambda: a @ b, 3, device)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = min(best, *timed(lambda: a @ b, 5, device))
    return 2 * side**3 / best

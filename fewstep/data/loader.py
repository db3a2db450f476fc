"""Processes that read ahead, so that the next batch is there when the step is done."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from threading import Thread
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from fewstep.errors import UserError
from fewstep.methods.base import Batch
from fewstep.types import Conditioning

Reader = Callable[[Sequence[int]], Any]
"""Reads samples by their numbers in the run; it can be sent to another process."""


class Batches(Protocol):
    """Where the batches of a run come from: a cache, or a stream that is encoded at each step.

    `reader` needs no network and may run ahead in loader processes; `batch` makes a batch of what
    it returns. `uncond` is the empty prompt's conditioning, one row.
    """

    def __len__(self) -> int: ...

    @property
    def reader(self) -> Reader:
        """The function from numbers of samples to what `batch` takes."""
        ...

    @property
    def uncond(self) -> Conditioning:
        """The empty prompt's conditioning, one row of each tensor."""
        ...

    def batch(self, read: Any) -> Batch:
        """Return the batch of what `reader` has read."""
        ...

    def caption_of(self, sample: int) -> str:
        """Return the caption that a sample of the run shows; the empty one where it is dropped."""
        ...


def batches_at(
    batches: Batches,
    requests: Iterable[Sequence[int]],
    workers: int,
    device: torch.device | str = "cpu",
) -> Callable[[Sequence[int]], Batch]:
    """Return the function from samples to their batch on a device.

    With workers it has to be called with the `requests`, in their order.
    """
    read = read_ahead(batches.reader, requests, workers)

    def batch_at(samples: Sequence[int]) -> Batch:
        batch = batches.batch(read(samples))
        cond = {name: value.to(device) for name, value in batch.cond.items()}
        return replace(batch, x_0=batch.x_0.to(device), cond=cond)

    return batch_at


@dataclass(frozen=True)
class _Reads(Dataset):
    """What `read` returns; a UserError is returned too, as torch would change its message."""

    read: Reader

    def __getitem__(self, samples: Sequence[int]) -> Any:
        try:
            return self.read(samples)
        except UserError as error:
            return error


def read_ahead(read: Reader, requests: Iterable[Sequence[int]], workers: int) -> Reader:
    """Return `read`, done ahead by `workers` processes in the order of the requests.

    With no workers it is `read` itself; the result is the same for any number.
    """
    if not workers:
        return read
    loader = DataLoader(
        _Reads(read),
        batch_size=None,
        sampler=requests,
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=partial(_ignore_signals, _lifeline()),
    )
    results: Iterator[tuple[Sequence[int], Any]] = zip(requests, loader, strict=True)

    def next_read(samples: Sequence[int]) -> Any:
        requested, result = next(results)
        if list(requested) != list(samples):
            raise RuntimeError(f"samples {samples} were requested, and {requested} read ahead")
        try:
            if isinstance(result, UserError):
                raise result
            return result
        finally:
            del result  # a raised error would keep this frame, and with it the processes, alive

    return next_read


def _unchanged(result: Any) -> Any:
    return result


@lru_cache(maxsize=1)
def _lifeline() -> tuple[Connection, Connection]:
    """Return a pipe that this process closes as it ends, before it waits for its workers."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    Finalize(None, writer.close, exitpriority=10)
    return reader, writer


def _ignore_signals(lifeline: tuple[Connection, Connection], worker: int) -> None:
    """Leave stopping to the training process, which saves and then ends its workers.

    Slurm and Ctrl-C signal all processes; a worker that died of it would take the step with it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    reader, writer = lifeline
    writer.close()
    Thread(target=_exit_with_parent, args=(reader,), daemon=True).start()


def _exit_with_parent(parent: Connection) -> None:
    with suppress(EOFError, OSError):
        parent.recv_bytes()
    os._exit(0)

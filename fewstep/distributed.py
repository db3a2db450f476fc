"""The processes that train or evaluate together, started by `torchrun` or `accelerate launch`.

Accelerate connects them, over NCCL on GPUs and gloo on CPUs. A single process communicates nothing.
"""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import torch
from torch import Tensor, nn

from fewstep.errors import SettingError, UserError

TIMEOUT = timedelta(hours=2)
"""How long a process waits for another, which may still encode images or draw a preview."""

PATIENCE = 5.0
"""Seconds after which a process says whom it waits for."""

PLACE = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""The variables, beside WORLD_SIZE, by which a process finds the others."""


def number_started() -> int:
    """Return how many processes were started together, by the variables that launchers set.

    Raises:
        SettingError: naming the variable that is missing, no number or out of range.
    """
    found = {name: os.environ.get(name, "").strip() for name in ("WORLD_SIZE", *PLACE)}
    fix = ("start every process by torchrun --nproc-per-node NUMBER -m -- fewstep …, or unset "
           "WORLD_SIZE, RANK and LOCAL_RANK to use this one alone")  # fmt: skip
    for name, text in found.items():
        if text and name != "MASTER_ADDR" and not text.removeprefix("-").isdecimal():
            raise SettingError(f"{name} is {text!r} in the environment, no number: {fix}")
    if not 0 <= int(found["MASTER_PORT"] or 0) < 2**16:
        raise SettingError(
            f"MASTER_PORT is {found['MASTER_PORT']}; it has to be below 65536: {fix}"
        )
    count, rank = int(found["WORLD_SIZE"] or 1), int(found["RANK"] or 0)
    if not 0 <= rank < count:
        size = f"WORLD_SIZE is {count}" if found["WORLD_SIZE"] else "WORLD_SIZE is not set"
        raise SettingError(f"RANK is {rank} in the environment and {size}: {fix}")
    if count > 1 and (missing := [name for name in PLACE if not found[name]]):
        raise SettingError(
            f"WORLD_SIZE is {count} in the environment, and {' and '.join(missing)} not set: {fix}"
        )
    return count


def number_started_here() -> int:
    """Return how many of the processes run on this machine, as far as a launcher says."""
    here = os.environ.get("LOCAL_WORLD_SIZE", "").strip()
    return max(1, int(here)) if here.isdecimal() and number_started() > 1 else 1


@contextmanager
def awaited() -> Iterator[None]:
    """Say which processes are awaited while this one joins them, and let a signal end it at once.

    The libraries wait outside of Python, whose own handlers would never be called.

    Raises:
        SettingError: if it cannot join them, as where another program has the port.
    """
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    others = "rank 0" if rank else "rank 1" if count == 2 else f"ranks 1 to {count - 1}"
    place = f"{os.environ['MASTER_ADDR']}, port {os.environ['MASTER_PORT']}"
    notice = (
        f"fewstep: rank {rank} of {count} waits for {others} at {place}; start the others, or stop "
        "this one and unset WORLD_SIZE"
    )
    timer = threading.Timer(PATIENCE, print, (notice,), {"file": sys.stderr, "flush": True})
    timer.daemon = True
    handlers = {s: signal.signal(s, signal.SIG_DFL) for s in (signal.SIGINT, signal.SIGTERM)}
    timer.start()
    try:
        yield
    except RuntimeError as error:
        raise SettingError(
            f"rank {rank} of {count} cannot join the others at {place} "
            f"({' '.join(str(error).split())[:200]}): check MASTER_ADDR, and that MASTER_PORT is "
            "free, which each run on a machine needs one of its own of (torchrun --master-port)"
        ) from error
    finally:
        timer.cancel()
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


@contextmanager
def connected() -> Iterator[None]:
    """Explain, within the block, that another process is gone.

    Raises:
        UserError: in place of the library's own error.
    """
    try:
        yield
    except RuntimeError as error:  # gloo's has no class of its own
        is_lost = isinstance(error, getattr(torch.distributed, "DistError", ()))
        if not is_lost and "gloo" not in str(error):
            raise
        raise UserError(
            "another process of this run ended or cannot be reached, and its own message says why; "
            "what was saved is kept: end all of them and run the same command again to continue"
        ) from error


@dataclass(frozen=True)
class Processes:
    """This process's rank among `count` processes.

    Its methods raise a UserError where another process is gone.
    """

    rank: int = 0
    count: int = 1
    device: torch.device | str = "cpu"

    @classmethod
    def started(cls, device: torch.device | str) -> "Processes":
        """Join the processes that were started together, if there are several.

        Raises:
            SettingError: if the environment says only half of how to.
        """
        if number_started() == 1:
            # notebooks and pods leave it set, and accelerate would look for other processes
            os.environ.pop("LOCAL_RANK", None)
            return cls(device=device)
        from accelerate import PartialState

        on_cpu = torch.device(device).type == "cpu"
        with awaited():
            state = PartialState(cpu=on_cpu, timeout=TIMEOUT)
        if on_cpu:  # gloo's threads may abort an exit; NCCL's shutdown may hang
            atexit.register(state.destroy_process_group)
        return cls(state.process_index, state.num_processes, device)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes, in one message."""
        if self.count == 1:
            return
        from accelerate.utils import reduce

        gradients = [weight.grad for weight in parameters if weight.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        with connected():
            means = cast(Tensor, reduce(flat, "mean"))
        parts = means.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def gather(self, values: Tensor) -> Tensor:
        """Return the values of all processes, concatenated in the order of their ranks."""
        if self.count == 1:
            return values
        from accelerate.utils import gather

        with connected():
            return gather(values)  # type: ignore[return-value]

    def gather_lines(self, lines: list[str]) -> list[str]:
        """Return the lines of all processes, in the order of their ranks."""
        if self.count == 1:
            return lines
        from accelerate.utils import gather_object

        with connected():
            return gather_object(lines)

    def all_reduce_max(self, number: int) -> int:
        """Return the largest of the processes' numbers."""
        if self.count == 1:
            return number
        return int(self.gather(torch.tensor([number], device=self.device)).max())

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Run the block in the main process first; the others then find the files it wrote."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()

    def wait(self) -> None:
        """Wait until all processes have reached this point."""
        if self.count > 1:
            from accelerate import PartialState

            with connected():
                PartialState().wait_for_everyone()


ALONE = Processes()

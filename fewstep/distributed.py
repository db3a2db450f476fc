"""The processes that train or evaluate together, started by `torchrun` or `accelerate launch`.

Accelerate connects them, over NCCL on GPUs and gloo on CPUs. A single process communicates nothing.
"""

import atexit
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import torch
from torch import Tensor, nn

TIMEOUT = timedelta(hours=2)
"""How long a process waits for another, which may still encode images or draw a preview."""


def is_main_process() -> bool:
    """Return whether this process writes and prints; known before it has joined the others."""
    return os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class Processes:
    """This process's rank among `count` processes."""

    rank: int = 0
    count: int = 1
    device: torch.device | str = "cpu"

    @classmethod
    def started(cls, device: torch.device | str) -> "Processes":
        """Join the processes that were started together, if there are several."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(device=device)
        from accelerate import PartialState

        on_cpu = torch.device(device).type == "cpu"
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
        means = cast(Tensor, reduce(flat, "mean"))
        parts = means.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def gather(self, values: Tensor) -> Tensor:
        """Return the values of all processes, concatenated in the order of their ranks."""
        if self.count == 1:
            return values
        from accelerate.utils import gather

        return gather(values)  # type: ignore[return-value]

    def gather_lines(self, lines: list[str]) -> list[str]:
        """Return the lines of all processes, in the order of their ranks."""
        if self.count == 1:
            return lines
        from accelerate.utils import gather_object

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

            PartialState().wait_for_everyone()


ALONE = Processes()

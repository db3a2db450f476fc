"""The processes that train together: each takes its share of every batch, and all agree.

They are started by `torchrun` or `accelerate launch`; accelerate joins them, over NCCL on GPUs and
gloo on processors. Alone, a process asks nobody.
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

PATIENCE = timedelta(hours=2)
"""How long one waits for another, which may have more images to encode or a preview to generate."""


def is_first_process() -> bool:
    """Return whether this is the process that shows and writes, before it has joined any other."""
    return os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class Processes:
    """This process's number among `count` that train together."""

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
        state = PartialState(cpu=on_cpu, timeout=PATIENCE)
        if on_cpu:  # gloo's threads may abort an exit; NCCL's end may wait for ever
            atexit.register(state.destroy_process_group)
        return cls(state.process_index, state.num_processes, device)

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and shows."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes, in one message."""
        if self.count == 1:
            return
        from accelerate.utils import reduce

        gradients = [weight.grad for weight in parameters if weight.grad is not None]
        whole = torch.cat([gradient.flatten() for gradient in gradients])
        means = cast(Tensor, reduce(whole, "mean"))
        parts = means.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def gather(self, values: Tensor) -> Tensor:
        """Return the values of all processes behind one another, the first's first."""
        if self.count == 1:
            return values
        from accelerate.utils import gather

        return gather(values)  # type: ignore[return-value]

    def any(self, number: int) -> int:
        """Return the largest number that a process says."""
        if self.count == 1:
            return number
        return int(self.gather(torch.tensor([number], device=self.device)).max())

    def gather_lines(self, lines: list[str]) -> list[str]:
        """Return the lines of all processes behind one another, the first's first."""
        if self.count == 1:
            return lines
        from accelerate.utils import gather_object

        return gather_object(lines)

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """Let the first do the block before the others, which find what it has left on the disk."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def wait(self) -> None:
        """Wait until all processes have come here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


ALONE = Processes()

"""What GPUs have by their makers' data sheets: memory, and rates in each precision."""

from dataclasses import dataclass

import torch

GIB = 2**30
CONTEXT = 1.0 * GIB
"""What CUDA, the workspaces of its libraries and its allocator's gaps take besides tensors."""

EFFICIENCY = (0.15, 0.4)
"""The fraction of its published matrix rate that a GPU reaches in training a UNet: a range."""

LAUNCH = (20e-6, 5e-6)
"""Seconds in which PyTorch starts an operation: a small network takes no less, on any GPU."""


@dataclass(frozen=True)
class Gpu:
    """A GPU: memory that a process can have, and TFLOP/s in half precision and in fp32.

    One without units for bf16 only imitates it, at a rate that no data sheet has.
    """

    name: str
    gib: float
    half: float
    full: float
    has_bf16: bool = True

    def computes(self, precision: str) -> bool:
        """Return whether it has units for a precision."""
        return self.has_bf16 or precision != "bf16"

    def seconds(self, flops: int, kernels: int, precision: str) -> tuple[float, float] | None:
        """Return the time of so many operations, at best and at worst; None if no rate is known."""
        if not self.computes(precision):
            return None
        rate = (self.full if precision == "fp32" else self.half) * 1e12
        worst, best = (
            max(flops / rate / fraction, kernels * launch)
            for fraction, launch in zip(EFFICIENCY, LAUNCH, strict=True)
        )
        return best, worst


GPUS = (
    Gpu("T4", 14.6, 65, 8.1, has_bf16=False),
    Gpu("RTX 3060 12 GB", 11.8, 25.5, 12.7),
    Gpu("RTX 3090", 23.7, 71, 35.6),
    Gpu("RTX 4090", 23.6, 165, 82.6),
    Gpu("A100 40 GB", 39.4, 312, 19.5),
    Gpu("H100", 79.1, 989, 66.9),
    Gpu("H200", 139.8, 989, 66.9),
)
"""Dense rates of the makers' data sheets, where half precision is summed in fp32, as PyTorch does.

Of GeForce cards that is half the rate of sums in fp16.
"""


def this_gpu(device: torch.device | str = "cuda") -> Gpu:
    """Return the GPU that is used, without its rates."""
    name = torch.cuda.get_device_name(device)
    return Gpu(name, torch.cuda.mem_get_info(device)[1] / GIB, 0, 0)

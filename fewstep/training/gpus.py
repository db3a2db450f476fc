"""What GPUs have by their makers' data sheets, memory and rates, and the recipe for each size."""

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


T4 = Gpu("T4", 14.6, 65, 8.1, has_bf16=False)
"""What a plan compares a run with where no card is known: free on Colab and Kaggle."""

GPUS = (
    T4,
    Gpu("RTX 3050 6 GB", 5.7, 13.5, 6.8),
    Gpu("RTX 3070", 7.6, 40.6, 20.3),
    Gpu("RTX 3060 12 GB", 11.8, 25.5, 12.7),
    Gpu("RTX 4060 Ti 16 GB", 15.6, 44.1, 22.1),
    Gpu("RTX 3090", 23.7, 71, 35.6),
    Gpu("RTX 4090", 23.6, 165, 82.6),
    Gpu("A100 40 GB", 39.4, 312, 19.5),
    Gpu("H100", 79.1, 989, 66.9),
    Gpu("H200", 139.8, 989, 66.9),
)
"""Dense rates of the makers' data sheets, where half precision is summed in fp32, as PyTorch does.

Of GeForce cards that is half the rate of sums in fp16.
"""


RECIPES = {
    "sd15": {
        "sd15-6gb": "RTX 3050 6 GB",
        "sd15-8gb": "RTX 3070",
        "sd15-t4": "T4",
        "sd15-16gb": "RTX 4060 Ti 16 GB",
        "sd15-24gb": "RTX 4090",
        "sd15-h100": "H100",
    },
    "sdxl": {"sdxl-12gb": "RTX 3060 12 GB", "sdxl-24gb": "RTX 4090"},
}
"""The configs of Stable Diffusion 1 and 2, and of XL, by the smallest card that each fits."""

SPREAD = 0.3
"""The GiB by which drivers differ in what they leave of one kind of card."""


def named_gpu(name: str) -> Gpu:
    """Return one of GPUS by its name."""
    return next(gpu for gpu in GPUS if gpu.name == name)


def recipe_for(gib: float, family: str = "sd15") -> str | None:
    """Return the config of a family for a card of so many GiB, None where none fits.

    >>> recipe_for(11.7), recipe_for(11.7, "sdxl"), recipe_for(7.7, "sdxl")
    ('sd15-8gb', 'sdxl-12gb', None)
    """
    fitting = [
        name for name, card in RECIPES[family].items() if named_gpu(card).gib <= gib + SPREAD
    ]
    return fitting[-1] if fitting else None


def this_gpu(device: torch.device | str = "cuda") -> Gpu:
    """Return the GPU that is used, without its rates."""
    name, (major, _) = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    gib = torch.cuda.mem_get_info(device)[1] / GIB
    return Gpu(name, gib, 0, 0, has_bf16=major >= 8)


def planned_gpu(gib: float | None = None) -> Gpu:
    """Return the card that a plan is for: of so many GiB, else this machine's, else a T4."""
    if gib is not None:
        return Gpu(f"card of {gib:g} GiB", gib, 0, 0)
    return this_gpu() if torch.cuda.is_available() else T4

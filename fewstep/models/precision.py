"""The precision of what is not trained, by name and by what the device can do."""

import time
from functools import cache

import torch

from fewstep.config import Precision
from fewstep.errors import SettingError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MIXED = "mixed"
"""Weights in fp32, and each pass of a step that has no gradient computed in bf16."""
BF16_CAPABILITY = 8
"""The CUDA compute capability from which a GPU has bf16; a T4, 7.5, only imitates it, slowly."""


def precision_for(wanted: Precision, device: torch.device | str) -> Precision:
    """Return the precision that "auto" means on a device; another is returned as it is.

    Raises:
        SettingError: if it is fp16 on a CPU, or mixed on a GPU.
    """
    on_gpu = torch.device(device).type == "cuda"
    if wanted == "fp16" and not on_gpu:
        raise SettingError(
            "model.precision is 'fp16', in which a CPU does not train: use 'fp32', 'mixed', 'bf16' "
            "or 'auto'"
        )
    if wanted == MIXED and on_gpu:
        raise SettingError(
            "model.precision is 'mixed', which is for a CPU: on a GPU use 'auto', 'bf16', 'fp16' "
            "or 'fp32'"
        )
    if wanted != "auto":
        return wanted
    if not on_gpu:
        return "fp32"
    capability, _ = torch.cuda.get_device_capability(device)
    return "bf16" if capability >= BF16_CAPABILITY else "fp16"


def stored_dtype(precision: Precision) -> torch.dtype:
    """Return the type of frozen weights."""
    return torch.float32 if precision == MIXED else DTYPES[precision]


def autocast_device(device: torch.device) -> str:
    """Return the device's type for torch.autocast, which does not know "meta"."""
    return "cpu" if device.type == "meta" else device.type


@cache
def multiplies_bf16(side: int = 512, repeats: int = 5) -> bool:
    """Return whether this processor multiplies bf16 at least twice as fast as fp32.

    One with units for it takes a quarter of the time or less, one without takes longer: what else
    the machine does decides nothing. Measured once a process, in a few milliseconds.
    """
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix, best = torch.ones(side, side, dtype=dtype), float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            torch.mm(matrix, matrix)
            best = min(best, time.perf_counter() - start)
        seconds[dtype] = best
    return 2 * seconds[torch.bfloat16] <= seconds[torch.float32]

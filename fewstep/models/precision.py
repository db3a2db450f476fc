"""The precision of what is not trained, by name and by what the device can do."""

import torch

from fewstep.config import Precision
from fewstep.errors import SettingError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BF16_CAPABILITY = 8
"""The CUDA compute capability from which a GPU has bf16; a T4, 7.5, only imitates it, slowly."""


def precision_for(wanted: Precision, device: torch.device | str) -> Precision:
    """Return the precision that "auto" means on a device; another is returned as it is.

    Raises:
        SettingError: if it is fp16 on a CPU.
    """
    on_gpu = torch.device(device).type == "cuda"
    if wanted == "fp16" and not on_gpu:
        raise SettingError(
            "model.precision is 'fp16', in which a CPU does not train: use 'fp32', 'bf16' or 'auto'"
        )
    if wanted != "auto":
        return wanted
    if not on_gpu:
        return "fp32"
    capability, _ = torch.cuda.get_device_capability(device)
    return "bf16" if capability >= BF16_CAPABILITY else "fp16"

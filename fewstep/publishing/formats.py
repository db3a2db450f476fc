"""LoRA files that other libraries load, with the scale folded into the weights."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from fewstep.files import write_file
from fewstep.sampling.contract import LORA_FILE


def folded(weights: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Multiply every lora_B by `scale` (alpha / rank), so that no reader needs to know it."""
    return {
        name: (value * scale if ".lora_B." in name else value).detach().cpu().contiguous()
        for name, value in weights.items()
    }


def write_diffusers_lora(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write the file that `pipe.load_lora_weights(folder)` reads: "unet." and PEFT's names."""
    tensors = {f"unet.{name}": value for name, value in weights.items()}
    write_file(folder / LORA_FILE, save(tensors, {"format": "pt"}))

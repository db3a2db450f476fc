"""LoRA files of others, in the formats that are in use, added to a model and its text encoder."""

from collections.abc import Mapping
from pathlib import Path

from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from torch import nn

from fewstep.models.base import ModelError, ModelFamily
from fewstep.models.components import UNSAFE
from fewstep.models.loading import quietly

DOWN = (".lora_A.weight", ".lora.down.weight", ".lora_down.weight", "_lora.down.weight")
"""How the names of a LoRA's first factor end, one a layer."""

MAGNITUDES = (".dora_scale", ".lora_magnitude_vector", ".lora_magnitude_vector.weight")
"""How the names of what a DoRA has beyond a LoRA end; diffusers leaves it out of some files."""


def add_loras(
    family: ModelFamily, network: nn.Module, loras: Mapping[str, float]
) -> tuple[ModelFamily, nn.Module]:
    """Merge LoRA files into `network`, in place, and into a copy of the family's text encoder.

    `loras` are paths of safetensors files in diffusers' or kohya's format, and the strength of
    each. diffusers reads them.

    Raises:
        ModelError: if one is missing, pickled or damaged, or has a layer that the model has not.
    """
    if not loras:
        return family, network
    family = family.with_own_text_encoder()
    pipe = family.pipeline(network)
    for path, strength in loras.items():
        _check(Path(path))
        try:
            with quietly():
                state, *_ = pipe.lora_state_dict(path, use_safetensors=True)
                pipe.load_lora_weights(path, adapter_name="style", use_safetensors=True)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"the LoRA {path} does not fit this model ({reason})") from error
        layers = sum(name.endswith(DOWN) for name in state)
        networks = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
        found = sum(isinstance(m, LoraLayer) for part in networks for m in part.modules())
        if not layers or found < layers:
            raise ModelError(
                f"only {found} of the {layers} layers of the LoRA {path} are in this model; it was "
                "made for another base model, or is in a format that is not known"
            )
        pipe.fuse_lora(lora_scale=strength, adapter_names=["style"])
        pipe.unload_lora_weights()
    return family, network


def _check(path: Path) -> None:
    """Refuse a LoRA that is pickled, missing, damaged or a DoRA."""
    if path.suffix != ".safetensors":
        raise ModelError(f"the LoRA {path} is not a .safetensors file; any other {UNSAFE}")
    if not path.is_file():
        raise ModelError(f"there is no LoRA {path}; give the path of its file")
    try:
        with safe_open(path, "pt") as file:
            is_dora = any(name.endswith(MAGNITUDES) for name in file.keys())  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read the LoRA {path} ({error}); get it again") from error
    if is_dora:
        raise ModelError(
            f"the LoRA {path} is a DoRA, whose magnitudes cannot be read here; merge it into its "
            "base model, or take a plain LoRA"
        )

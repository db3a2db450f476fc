"""LoRA files of others, in the formats that are in use, added to a model and its text encoder."""

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import nn

from fewstep.models.base import ModelError, ModelFamily
from fewstep.models.ldm import unet_name
from fewstep.models.lora_files import read_lora

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")


def add_loras(
    family: ModelFamily, network: nn.Module, loras: Mapping[str, float]
) -> tuple[ModelFamily, nn.Module]:
    """Merge LoRA files into `network`, in place, and into a copy of the family's text encoder.

    `loras` are paths of safetensors files with the names of kohya, diffusers or PEFT, and the
    strength of each.

    Raises:
        ModelError: if one is missing, pickled or damaged, or has a layer that the model has not.
    """
    if not loras:
        return family, network
    family = family.with_own_text_encoder()
    modules = dict(_modules(family.pipeline(network).components))
    for path, strength in loras.items():
        _merge(modules, path, strength)
    return family, network


def _merge(modules: Mapping[str, nn.Module], path: str, strength: float) -> None:
    file = read_lora(Path(path))
    weights = {
        name: modules[_spelt(name)].weight for name in file.layers if _spelt(name) in modules
    }
    if missing := [name for name in file.layers if name not in weights]:
        raise ModelError(
            f"only {len(weights)} of the {len(file.layers)} layers of the LoRA {path} are in this "
            f"model, and {missing[0]} is not; it was made for another base model"
        )
    changes = {}
    for name, layer in file.layers.items():
        changes[name] = change = layer.change(weights[name].shape)
        if change is None:
            raise ModelError(
                f"the LoRA {path} does not fit this model: its layer {name} is not whole, or has "
                "another shape; it was damaged, or made for another base model"
            )
    for name, weight in weights.items():
        weight.data.copy_(weight.float() + strength * changes[name].to(weight.device))
    if file.embeddings:
        names = ", ".join(sorted(file.embeddings))
        print(f"fewstep: the LoRA {path} is used without its embedding ({names})", file=sys.stderr)


def _modules(components: Mapping[str, object]) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of the UNet and the text encoders under each name that files have for them.

    The UNet's have LDM's as well.
    """
    for component in filter(components.__contains__, COMPONENTS):
        network = components[component]
        assert isinstance(network, nn.Module)
        for name, module in network.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                yield _spelt(name), module  # as PEFT names a network's own modules
                yield _spelt(f"{component}.{name}"), module
                if component == "unet":
                    yield _spelt(f"unet.{unet_name(name, network.config)}"), module


def _spelt(name: str) -> str:
    """Return one spelling of a module's name, whatever the file's program.

    >>> _spelt("text_encoder.text_model.encoder.layers.0.self_attn.to_out")
    'text_encoder_encoder_layers_0_self_attn_out_proj'
    >>> _spelt("unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out")
    'unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0'
    """
    name = re.sub("^(text_encoder_(?:2_)?)?text_model_", r"\1", name.replace(".", "_"))
    name = re.sub(r"(attn\d_to_out)$", r"\1_0", name)
    return re.sub(r"(self_attn)_to_(q|k|v|out)$", r"\1_\2_proj", name)

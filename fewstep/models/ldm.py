"""A whole model in the layout of Stable Diffusion's first release: one file, LDM's names.

A1111, Forge, ComfyUI and most other programs call this a checkpoint.
"""

# diffusers hands out its configs and networks without types
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from fewstep.models.base import ModelFamily
from fewstep.models.stable_diffusion import StableDiffusion

Names = dict[str, str]
"""diffusers' names of modules, or their beginnings, to LDM's."""

UNET_ENDS: Names = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
UNET_RESNET: Names = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_PARTS: Names = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    "conv_norm_out": "norm_out",
}
VAE_ATTENTION: Names = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
OPEN_CLIP: Names = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
    "final_layer_norm": "ln_final",
}


def ldm_weights(family: ModelFamily, network: nn.Module) -> dict[str, Tensor]:
    """Return the weights of the whole model, with `network` as its UNet, by LDM's names."""
    model = cast(StableDiffusion, family)
    unet, vae = unet_names(network.config), vae_names(model.vae.config)
    tensors = {
        f"model.diffusion_model.{renamed(name, unet)}": weight
        for name, weight in network.state_dict().items()
    }
    for name, weight in model.vae.state_dict().items():
        is_linear = ".attentions." in name and weight.dim() == 2  # LDM: a convolution of 1 x 1
        tensors[f"first_stage_model.{renamed(name, vae)}"] = (
            weight[..., None, None] if is_linear else weight
        )
    tensors |= text_weights(model.text_encoder)
    return {name: weight.detach().cpu().contiguous() for name, weight in tensors.items()}


def unet_names(config: Mapping[str, Any]) -> Names:
    """Return LDM's names of the parts of a UNet, numbered as SD numbers them.

    Source: Rombach et al. 2022, ldm/modules/diffusionmodules/openaimodel.py.
    """
    layers, names = config["layers_per_block"], dict(UNET_ENDS)
    for i, kind in enumerate(config["down_block_types"]):
        first = 1 + i * (layers + 1)
        for j in range(layers):
            names |= _layer(f"down_blocks.{i}", j, f"input_blocks.{first + j}", kind)
        names[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{first + layers}.0.op"
    for i, kind in enumerate(config["up_block_types"]):
        first = i * (layers + 1)
        for j in range(layers + 1):
            names |= _layer(f"up_blocks.{i}", j, f"output_blocks.{first + j}", kind)
        after = 2 if "CrossAttn" in kind else 1
        names[f"up_blocks.{i}.upsamplers.0.conv"] = f"output_blocks.{first + layers}.{after}.conv"
    return names | _inside((n for n in names if ".resnets." in n), names, UNET_RESNET)


def vae_names(config: Mapping[str, Any]) -> Names:
    """Return LDM's names of the parts of the autoencoder; LDM counts the decoder's from its end."""
    names, number = {}, len(config["block_out_channels"])
    for side, blocks, sampler in (("encoder", "down", "down"), ("decoder", "up", "up")):
        names |= {f"{side}.{old}": f"{side}.{new}" for old, new in VAE_PARTS.items()}
        for i in range(number):
            block = f"{side}.{blocks}.{i if side == 'encoder' else number - 1 - i}"
            here = f"{side}.{blocks}_blocks.{i}"
            names[f"{here}.{sampler}samplers.0.conv"] = f"{block}.{sampler}sample.conv"
            for j in range(config["layers_per_block"] + 1):
                names[f"{here}.resnets.{j}"] = f"{block}.block.{j}"
    names |= _inside((n for n in names if ".resnets." in n), names,
                     {"conv_shortcut": "nin_shortcut"})  # fmt: skip
    return names | _inside((n for n in names if ".attentions." in n), names, VAE_ATTENTION)


def renamed(name: str, names: Names) -> str:
    """Return a name with its longest known beginning replaced; one that has none stays.

    >>> renamed("mid_block.resnets.0.norm1.bias", UNET_ENDS)
    'middle_block.0.norm1.bias'
    """
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if (beginning := ".".join(parts[:end])) in names:
            return ".".join([names[beginning], *parts[end:]])
    return name


def _layer(block: str, j: int, place: str, kind: str) -> Names:
    names = {f"{block}.resnets.{j}": f"{place}.0"}
    return names | ({f"{block}.attentions.{j}": f"{place}.1"} if "CrossAttn" in kind else {})


def _inside(parents: Iterable[str], names: Names, children: Names) -> Names:
    return {
        f"{parent}.{old}": f"{names[parent]}.{new}"
        for parent in parents
        for old, new in children.items()
    }


def text_weights(encoder: nn.Module) -> dict[str, Tensor]:
    """Return the text encoder's: CLIP's as transformers names them, or OpenCLIP's own (SD 2)."""
    weights = {
        name.removeprefix("text_model."): weight for name, weight in encoder.state_dict().items()
    }
    if encoder.config.hidden_act == "quick_gelu":
        return {f"cond_stage_model.transformer.text_model.{n}": w for n, w in weights.items()}
    tensors, place = {}, "cond_stage_model.model."
    for name, weight in weights.items():
        if ".self_attn.q_proj." in name:  # OpenCLIP keeps query, key and value in one
            three = [weights[name.replace(".q_proj.", f".{x}_proj.")] for x in "qkv"]
            tensors[place + _open_clip(name.replace(".q_proj.", ".in_proj_"))] = torch.cat(three)
        elif ".self_attn.k_proj." not in name and ".self_attn.v_proj." not in name:
            tensors[place + _open_clip(name)] = weight
    return tensors


def _open_clip(name: str) -> str:
    for old, new in OPEN_CLIP.items():
        name = name.replace(old, new)
    return name.replace("self_attn.in_proj_", "attn.in_proj_")

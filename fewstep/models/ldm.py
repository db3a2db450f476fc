"""The names that Stable Diffusion's first release (LDM) gave its weights, in one file for all.

A1111, Forge, ComfyUI and most other programs call such a file a checkpoint.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.models.base import TEXT_MODEL, ModelError

PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.",
}
XL_PREFIXES = PREFIXES | {
    "text_encoder": "conditioner.embedders.0.",
    "text_encoder_2": "conditioner.embedders.1.",
}
"""How the names of each component begin: in Stable Diffusion 1 and 2, and in XL."""
UNET = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip
UNET_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
VAE = {
    "mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1", "down_blocks": "down", "resnets": "block",
    "downsamplers.0": "downsample", "upsamplers.0": "upsample", "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out", "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v",
    "to_out.0": "proj_out",
}  # fmt: skip
OPEN_CLIP = {
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "encoder.layers": "transformer.resblocks", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj",
    "final_layer_norm": "ln_final", "text_projection.weight": "text_projection",
}  # fmt: skip


def unet_name(name: str, config: Any) -> str:
    """Return LDM's name of a UNet's module or weight; LDM numbers blocks through all levels.

    Source: Rombach et al. 2022, ldm/modules/diffusionmodules/openaimodel.py.
    """
    if ".resnets." in name:
        name = _replaced(name, UNET_RESNET)
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name)
    if match is None:
        return _replaced(name, UNET)
    side, kind, rest = match[1], match[3], match[5]
    level, layers = int(match[2]), config.layers_per_block
    number = level * (layers + 1) + int(match[4])
    if kind == "downsamplers":
        return f"input_blocks.{number + layers + 1}.0.{rest.replace('conv', 'op')}"
    if kind == "upsamplers":
        place = 2 if "CrossAttn" in config.up_block_types[level] else 1
        return f"output_blocks.{number + layers}.{place}.{rest}"
    block = f"input_blocks.{number + 1}" if side == "down" else f"output_blocks.{number}"
    return f"{block}.{0 if kind == 'resnets' else 1}.{rest}"


def vae_name(name: str, config: Any) -> str:
    """Return LDM's name of the autoencoder's weight; LDM counts the decoder's blocks backwards."""
    top = len(config.block_out_channels) - 1
    name = re.sub(r"up_blocks\.(\d+)", lambda level: f"up.{top - int(level[1])}", name)
    return _replaced(name, VAE)


def text_name(name: str, config: Any) -> str:
    """Return the name of a text encoder's weight: transformers' own (SD 1) or OpenCLIP's (SD 2).

    XL has one of each.

    OpenCLIP keeps query, key and value in one weight: their three names have one there.
    """
    name = name.removeprefix(TEXT_MODEL)
    if config.hidden_act == "quick_gelu":
        return f"transformer.text_model.{name}"
    name = re.sub(r"self_attn\.[qkv]_proj\.", "attn.in_proj_", name)
    return f"model.{_replaced(name, OPEN_CLIP)}"


def _replaced(name: str, names: Mapping[str, str]) -> str:
    for ours, theirs in names.items():
        name = name.replace(ours, theirs)
    return name


NOT_OF_THE_MODEL = re.compile(
    r"model_ema\.|loss\.|first_stage_model\.(loss|discriminator)\.|embedding_manager\.|denoiser\.|"
    r"(sqrt|log|posterior)_|(global_step|betas|alphas_cumprod(_prev)?|logvar|lvlb_weights|scale_factor)$|"
    r"cond_stage_model\.model\.transformer\.resblocks\.|(v_pred|ztsnr)$|"
    r".*(position_ids|attn_mask|logit_scale|text_projection(\.weight)?)$"
)
"""Weights that checkpoints hold and nothing reads: an average, the schedule, what CLIP was trained
with, its last layer in SD 2, and embeddings learnt beside it."""

SCALES = (".scale_weight", ".weight_scale")
"""How the names of fp8 weights' scales end, for the ending ".weight"."""

NO_SCALES = ("scaled_fp8", ".scale_input", ".input_scale")
"""Of scaled files: a mark, and scales of what a layer is given, for products in fp8."""


def unscaled(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a file times their scales, in fp32 where they have one.

    A scale of no weight, or of more than one number for each of a weight's rows, as formats of
    blocks have, stays as it is.

    Source: ComfyUI's scaled fp8 files, weight * scale_weight.
    """
    found = {name: w for name, w in weights.items() if not name.endswith(NO_SCALES)}
    for name, scale in weights.items():
        for ending in filter(name.endswith, SCALES):
            weight = found.get(scaled := name.removesuffix(ending) + ".weight")
            if weight is not None and scale.numel() in (1, *weight.shape[:1]):
                shape = (-1, *[1] * (weight.dim() - 1)) if scale.numel() > 1 else ()
                found[scaled] = weight.float() * scale.float().reshape(shape)
                del found[name]
    return found


def check_all_read(
    weights: Mapping[str, Tensor],
    networks: Mapping[str, nn.Module],
    source: object,
    prefixes: Mapping[str, str] = PREFIXES,
) -> None:
    """Raise a ModelError if a checkpoint holds weights that no network reads, of no known kind."""
    read = {
        name
        for part, network in networks.items()
        for name in ldm_names(part, network, prefixes).values()
    }
    unread = [n for n in weights if n not in read and not NOT_OF_THE_MODEL.match(n)]
    if unread:
        raise ModelError(
            f"{source} holds {len(unread)} weights that are not read, such as {unread[0]}: it is "
            "quantised or of another architecture; take the model in fp16 or fp32, or set "
            "model.config"
        )


NAMES = {
    "unet": unet_name,
    "vae": vae_name,
    "text_encoder": text_name,
    "text_encoder_2": text_name,
}


def ldm_names(
    component: str, network: nn.Module, prefixes: Mapping[str, str] = PREFIXES
) -> dict[str, str]:
    """Return LDM's name of each weight of a component, whose names NAMES has."""
    return {
        name: prefixes[component] + NAMES[component](name, network.config)
        for name in network.state_dict()
    }


def ldm_weights(
    networks: Mapping[str, nn.Module], prefixes: Mapping[str, str] = PREFIXES
) -> dict[str, Tensor]:
    """Return the weights of all components by LDM's names."""
    tensors = {}
    for component, network in networks.items():
        weights = network.state_dict()
        for name, ldm_name in ldm_names(component, network, prefixes).items():
            weight = weights[name]
            if ".in_proj_" in ldm_name:
                weight = torch.cat(
                    [weights[re.sub("[qkv]_proj", f"{x}_proj", name)] for x in "qkv"]
                )
            elif ".attn_1." in ldm_name and weight.dim() == 2:  # in LDM a convolution of 1 x 1
                weight = weight[..., None, None]
            elif ldm_name.endswith(".text_projection"):  # which OpenCLIP multiplies from the left
                weight = weight.mT
            tensors[ldm_name] = weight.detach().cpu().contiguous()
    return tensors


def load_ldm_weights(
    weights: Mapping[str, Tensor],
    component: str,
    network: nn.Module,
    source: object,
    prefixes: Mapping[str, str] = PREFIXES,
) -> None:
    """Give a network without weights those of a checkpoint, in fp32; on meta only check the names.

    Raises:
        ModelError: if some are missing, or are no floating-point numbers, naming the component
            and the first of them.
    """
    names = ldm_names(component, network, prefixes)
    if missing := [name for name in names.values() if name not in weights]:
        raise ModelError(
            f"cannot load the {component} of {source}: {len(missing)} of its weights are missing, "
            f"such as {missing[0]}; it has to be a complete checkpoint of Stable Diffusion 1, 2 or "
            "XL; a LoRA or a UNet alone is not"
        )
    found = {}
    for name, ldm_name in names.items():
        weight = weights[ldm_name].float()
        if not weights[ldm_name].is_floating_point():
            raise ModelError(
                f"the {component} of {source} is quantised: {ldm_name} is in "
                f"{str(weights[ldm_name].dtype).removeprefix('torch.')}, and nothing says how to "
                "scale it; take the model in fp16 or fp32"
            )
        if ".in_proj_" in ldm_name:
            weight = weight.chunk(3)["qkv".index(name[name.index("_proj") - 1])].clone()
        elif ".attn_1." in ldm_name and weight.dim() > 2:
            weight = weight.flatten(1)
        elif ldm_name.endswith(".text_projection"):
            weight = weight.mT.contiguous()
        found[name] = weight
    network.load_state_dict(found, assign=True)

"""Which networks of a Stable Diffusion can be used, from their configs, before weights are read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewstep.models.base import ModelError
from fewstep.models.components import explained, read_json

EXTRA_INPUTS = {
    "class_embed_type": "class labels",
    "num_class_embeds": "class labels",
    "addition_embed_type": "further embeddings, as those of SDXL do",
    "encoder_hid_dim_type": "prompts of another encoder, or images",
    "time_cond_proj_dim": "the guidance scale, as those of LCM do",
}
"""What a UNet with one of these settings asks for beside latents, a timestep and prompts."""

CHANNELS_OF = {5: ", as depth models do", 8: ", as models that edit images do",
               9: ", as inpainting models do"}  # fmt: skip


def check_configs(source: str | Path, revision: str | None, base: object) -> None:
    """Refuse networks that the family's code would call wrongly.

    Raises:
        ModelError: naming the component, the setting and its value.
    """
    configs = {}
    for name in ("unet", "vae", "text_encoder"):
        with explained(source, name):
            configs[name] = read_json(source, f"{name}/config.json", revision)[0]
        if quantised := configs[name].get("quantization_config"):
            kind = quantised.get("quant_method") if isinstance(quantised, Mapping) else quantised
            raise ModelError(
                f"the {name} of {base} is quantised ({kind}), which cannot be trained or merged: "
                "take the model as it was before"
            )
    unet, latents = configs["unet"], configs["vae"].get("latent_channels", 4)
    for setting, inputs in EXTRA_INPUTS.items():
        if (value := unet.get(setting)) is not None:
            raise _unusable(base, f"{setting} = {value!r}: it also takes {inputs}")
    for setting in ("in_channels", "out_channels"):
        if (value := unet.get(setting, 4)) != latents:
            raise _unusable(
                base,
                f"{setting} = {value!r}{CHANNELS_OF.get(value, '')}, and the VAE's latents have "
                f"{latents} channels",
            )
    _check_sizes(unet, configs["text_encoder"], base)


def _check_sizes(unet: Mapping[str, Any], text_encoder: Mapping[str, Any], base: object) -> None:
    """Refuse prompts of another width than the UNet's, and images without a size."""
    widths, width = unet.get("cross_attention_dim", 1280), text_encoder.get("hidden_size", 512)
    if any(value != width for value in (widths if isinstance(widths, list) else [widths])):
        raise _unusable(
            base, f"cross_attention_dim = {widths}, and the text encoder's hidden_size is {width}"
        )
    size = unet.get("sample_size")
    if not (isinstance(size, int) and size > 0):
        raise _unusable(base, f"sample_size = {size!r}, which has to be the latents' side")


def _unusable(base: object, reason: str) -> ModelError:
    return ModelError(
        f"the UNet of {base} has {reason}; only text-to-image models like Stable Diffusion 1 and 2 "
        "can be used"
    )

"""Which networks of a Stable Diffusion can be used, from their configs, before weights are read."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewstep.models.base import ModelError
from fewstep.models.components import explained, read_json

EXTRA_INPUTS = {
    "class_embed_type": "class labels",
    "num_class_embeds": "class labels",
    "class_embeddings_concat": "class labels",
    "addition_embed_type": "further embeddings, as those of SDXL do",
    "encoder_hid_dim_type": "prompts of another encoder, or images",
    "encoder_hid_dim": "prompts of another encoder, or images",
    "dual_cross_attention": "images, as those of Versatile Diffusion do",
    "time_cond_proj_dim": "the guidance scale, as those of LCM do",
}
"""What a UNet with one of these settings asks for beside latents, a timestep and prompts."""

BLOCKS = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "mid_block_type": ("UNetMidBlock2D", "UNetMidBlock2DCrossAttn"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
"""What the networks of Stable Diffusion are made of; those of DeepFloyd, Kandinsky and others have
blocks of their own."""

CHANNELS_OF = {5: ", as depth models do", 8: ", as models that edit images do",
               9: ", as inpainting models do"}  # fmt: skip


FEW_STEP = re.compile(
    r"(?<![a-z])(turbo|lightning|hyper-?sd(?:xl|15)?|lcm|dmd2?)(?![a-z])", re.IGNORECASE
)
"""Names of models that were distilled already, and of merges with them."""


def check_configs(source: str | Path, revision: str | None, base: object) -> None:
    """Refuse networks that Stable Diffusion's code would call wrongly, and few-step models.

    Raises:
        ModelError: naming the component, the setting and its value.
    """
    _check_name(base)
    configs = _read(source, revision, base, ("unet", "vae", "text_encoder"))
    _check_inputs(configs, EXTRA_INPUTS, base)
    _check_sizes(configs["unet"], configs["text_encoder"].get("hidden_size", 512), base)


def check_xl_configs(source: str | Path, revision: str | None, base: object) -> None:
    """Refuse what Stable Diffusion XL's code would call wrongly, its refiner, and few-step models.

    Raises:
        ModelError: naming the component, the setting and its value.
    """
    _check_name(base)
    encoders = ("text_encoder", "text_encoder_2")
    configs = _read(source, revision, base, ("unet", "vae", *encoders))
    unet, second = configs["unet"], configs["text_encoder_2"]
    if unet.get("addition_embed_type") != "text_time":
        raise _unusable(
            base,
            f"addition_embed_type = {unet.get('addition_embed_type')!r}: XL's reads the pooled "
            "prompt and the image's size ('text_time')",
        )
    inputs = {name: what for name, what in EXTRA_INPUTS.items() if name != "addition_embed_type"}
    _check_inputs(configs, inputs, base)
    size, pooled = unet.get("addition_time_embed_dim") or 0, second.get("projection_dim", 512)
    width, needed = unet.get("projection_class_embeddings_input_dim"), pooled + 6 * size
    if width != needed:
        refiner = ", as the refiner's does: take the base" if width == pooled + 5 * size else ""
        raise _unusable(
            base,
            f"projection_class_embeddings_input_dim = {width}, and a pooled prompt of {pooled} "
            f"with six sizes of {size} has {needed}{refiner}",
        )
    _check_sizes(unet, sum(configs[name].get("hidden_size", 512) for name in encoders), base)


def _check_name(base: object) -> None:
    if few := FEW_STEP.search(Path(str(base)).name):
        raise ModelError(
            f"{base} takes few steps already, as {few[0]!r} in its name says, and has no 50-step "
            "teacher in it any more: distil the model that it was made from, or rename it if its "
            "name misleads"
        )


def _read(
    source: str | Path, revision: str | None, base: object, names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    configs = {}
    for name in names:
        with explained(source, name):
            configs[name] = read_json(source, f"{name}/config.json", revision)[0]
        if quantised := configs[name].get("quantization_config"):
            kind = quantised.get("quant_method") if isinstance(quantised, Mapping) else quantised
            raise ModelError(
                f"the {name} of {base} is quantised ({kind}), which cannot be trained or merged: "
                "take the model as it was before"
            )
    return configs


def _check_inputs(
    configs: Mapping[str, Mapping[str, Any]], extra: Mapping[str, str], base: object
) -> None:
    unet, latents = configs["unet"], configs["vae"].get("latent_channels", 4)
    for setting, inputs in extra.items():
        if (value := unet.get(setting)) not in (None, False):
            raise _unusable(base, f"{setting} = {value!r}: it also takes {inputs}")
    for setting, known in BLOCKS.items():
        value = unet.get(setting) or ()
        if strange := set([value] if isinstance(value, str) else value) - {*known}:
            raise _unusable(base, f"{setting} with {min(strange)}, not {' or '.join(known)}")
    for setting in ("in_channels", "out_channels"):
        if (value := unet.get(setting, 4)) != latents:
            raise _unusable(
                base,
                f"{setting} = {value!r}{CHANNELS_OF.get(value, '')}, and the VAE's latents have "
                f"{latents} channels",
            )


def _check_sizes(unet: Mapping[str, Any], width: int, base: object) -> None:
    """Refuse prompts of another width than the UNet's, and images without a size."""
    widths = unet.get("cross_attention_dim", 1280)
    if any(value != width for value in (widths if isinstance(widths, list) else [widths])):
        raise _unusable(
            base, f"cross_attention_dim = {widths}, and the text encoder's hidden_size is {width}"
        )
    size = unet.get("sample_size")
    if not (isinstance(size, int) and size > 0):
        raise _unusable(base, f"sample_size = {size!r}, which has to be the latents' side")


def _unusable(base: object, reason: str) -> ModelError:
    return ModelError(
        f"the UNet of {base} has {reason}; only text-to-image models like Stable Diffusion 1, 2 "
        "and XL can be used"
    )

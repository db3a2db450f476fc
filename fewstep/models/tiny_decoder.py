"""A small decoder in a VAE's place: diffusers' AutoencoderTiny, and which VAE it stands for."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from diffusers import AutoencoderTiny
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock
from torch import Tensor, nn

from fewstep.files import sha256_of
from fewstep.models.base import ModelError, ModelFamily, fingerprint
from fewstep.models.components import explained, read_json, read_network
from fewstep.models.loading import quietly
from fewstep.models.stable_diffusion import StableDiffusion
from fewstep.strict import from_tables
from fewstep.types import Latents

TINY_FOLDER = "tiny_decoder"
"""Its folder in a run and in an artefact."""
CONTRACT, WEIGHTS = "decoder.json", "diffusion_pytorch_model.safetensors"
MAKE = "fewstep distill-decoder CONFIG --run RUN makes one"

BLOCKS = 3
"""Residual blocks at each size but the image's own, which has one, as in diffusers' default."""
LEAST_CHANNELS = 16


@dataclass(frozen=True)
class DecoderContract:
    """Which VAE a small decoder stands for, its weights' checksum, and how it was trained."""

    fingerprint: str
    scaling_factor: float
    sha256: str
    train: Mapping[str, Any]
    versions: Mapping[str, str]
    format_version: Literal[1] = 1


def with_vae(family: ModelFamily) -> StableDiffusion:
    """Return the family, whose VAE is diffusers' AutoencoderKL.

    Raises:
        ModelError: if it has none.
    """
    if not isinstance(family, StableDiffusion):
        raise ModelError(
            f"a small decoder stands for an AutoencoderKL, which a {type(family).__name__} has not"
        )
    return family


def default_channels(family: StableDiffusion) -> int:
    """Return half the channels of the VAE's last layers: 64 for Stable Diffusion's."""
    return max(LEAST_CHANNELS, family.vae.config.block_out_channels[0] // 2)


def new_decoder(family: StableDiffusion, channels: int) -> AutoencoderTiny:
    """Return an untrained decoder of latents as the family scales them.

    Its encoder is zeros without blocks: images are encoded by the VAE itself.

    Source: Zhang et al. 2019 (Fixup): without normalisation each residual branch begins at zero.
    """
    config = family.vae.config
    sizes = len(config.block_out_channels)
    decoder = AutoencoderTiny(
        encoder_block_out_channels=(channels,) * sizes,
        decoder_block_out_channels=(channels,) * sizes,
        num_encoder_blocks=(0,) * sizes,
        num_decoder_blocks=(*(BLOCKS,) * (sizes - 1), 1),
        latent_channels=config.latent_channels,
    )
    for weight in decoder.encoder.requires_grad_(False).parameters():
        nn.init.zeros_(weight)
    decoder.decoder.apply(_begin)
    nn.init.constant_(decoder.decoder.layers[-1].bias, 0.5)  # grey
    return decoder.to(family.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _begin(layer: nn.Module) -> None:
    """Give a layer its first weights, after those inside it have theirs."""
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, AutoencoderTinyBlock):
        nn.init.zeros_(layer.conv[-1].weight)


def decoded(decoder: Any, latents: Latents) -> Tensor:
    """Return its images [batch, 3, H, W], in [0, 1] but for its error."""
    return decoder.decode(latents).sample / 2 + 0.5


def write_decoder(
    folder: Path,
    decoder: AutoencoderTiny,
    family: StableDiffusion,
    train: Mapping[str, Any],
    versions: Mapping[str, str],
) -> None:
    """Write a decoder that diffusers loads as it is, and beside it which VAE it stands for."""
    decoder = decoder.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with quietly():
        decoder.save_pretrained(folder, safe_serialization=True)
    vae = family.vae
    scale, digest = vae.config.scaling_factor, sha256_of(folder / WEIGHTS)
    contract = DecoderContract(fingerprint(vae), scale, digest, train, versions)
    text = json.dumps(asdict(contract), indent=2, sort_keys=True) + "\n"
    (folder / CONTRACT).write_text(text, encoding="utf-8")


def with_decoder(family: ModelFamily, folder: Path) -> ModelFamily:
    """Return the family with the decoder in `folder` in place of its VAE's.

    One of others, which does not say for which VAE it was made, is taken if its latents fit.

    Raises:
        ModelError: if it stands for another VAE, decodes other latents, or is not whole.
    """
    own = with_vae(family)
    _check_latents(folder, own)
    if (folder / CONTRACT).exists():
        _check_contract(folder, own)
    with quietly():
        decoder = read_network(
            AutoencoderTiny, folder.parent, folder.name, None, variant=None, allow_pickle=False
        )
    decoder = decoder.eval().requires_grad_(False)
    decoder = decoder.to(own.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return cast(ModelFamily, replace(own, decoder=decoder))


def _check_latents(folder: Path, family: StableDiffusion) -> None:
    """Refuse what is no AutoencoderTiny, or one of other latents than the family's."""
    with explained(folder.parent, folder.name):
        config = read_json(folder, "config.json", None)[0]
        if (found := config.get("_class_name")) != "AutoencoderTiny":
            raise ValueError(f"its config.json is of {found}, and not of AutoencoderTiny")
        sizes, ours = len(config["decoder_block_out_channels"]), family.vae.config
        theirs = config["latent_channels"], 2 ** (sizes - 1)
        needed = ours.latent_channels, 2 ** (len(ours.block_out_channels) - 1)
    if theirs != needed:
        found, own = ("{} channels at 1/{} of the image's side".format(*one)
                      for one in (theirs, needed))  # fmt: skip
        raise ModelError(
            f"the decoder {folder} is for latents of {found}, and this model's have {own}: name "
            f"another; {MAKE}"
        )


def _check_contract(folder: Path, family: StableDiffusion) -> None:
    """Refuse a decoder that stands for another VAE, or whose weights were changed."""
    with explained(folder.parent, folder.name):
        entries = read_json(folder, CONTRACT, None)[0]
        contract = from_tables(DecoderContract, entries, what=f"entry of {CONTRACT}")
        if not (folder / WEIGHTS).is_file():
            raise ValueError(f"it has no {WEIGHTS}")
        if contract.sha256 != sha256_of(folder / WEIGHTS):
            raise ValueError(f"its weights are not those that {CONTRACT} was written for")
    same = {
        "weights": contract.fingerprint == fingerprint(family.vae),
        "scaling_factor": contract.scaling_factor == family.vae.config.scaling_factor,
    }
    if differing := [name for name, is_same in same.items() if not is_same]:
        raise ModelError(
            f"the decoder {folder} stands for another VAE than this model's, of other "
            f"{' and '.join(differing)}: name another; {MAKE}"
        )

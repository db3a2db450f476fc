"""Stable Diffusion 1.x and 2.x: one text encoder, a UNet on latents, an autoencoder."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import diffusers
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from fewstep.config import LongPrompts
from fewstep.diffusion.conditioning import MASK, joined
from fewstep.diffusion.prediction import OutputReader, Prediction
from fewstep.diffusion.schedule import NoiseSchedule
from fewstep.models.adapters import PRESETS
from fewstep.models.base import ModelError, PromptLength
from fewstep.models.ldm import PREFIXES, ldm_weights
from fewstep.models.parts import load_parts
from fewstep.models.precision import autocast_device
from fewstep.models.prompts import chunks_of, prompt_lengths
from fewstep.models.supported import check_configs
from fewstep.models.tokenizer import tokenizer_digest
from fewstep.types import Conditioning, Denoiser, Latents, Timesteps

NETWORKS = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}

PIXELS_AT_ONCE = 64 * 64**2
"""How much the autoencoder is given at once: 64 images of 64 pixels, one of 512."""


def load_stable_diffusion(source: str | Path, **options: Any) -> "StableDiffusion":
    """Load a diffusers folder or Hub id; see `load_parts`."""
    check_configs(source, options["revision"], options["base"])
    return StableDiffusion(**load_parts(source, NETWORKS, PREFIXES, **options))


def diffusers_scheduler(config: Mapping[str, Any] | None) -> Any:
    """Return the scheduler of diffusers that a config names, or one that it does not warn of."""
    config = dict(config or {"steps_offset": 1, "clip_sample": False})
    return getattr(diffusers, config.get("_class_name", "DDIMScheduler")).from_config(config)


@dataclass(frozen=True)
class StableDiffusion:
    """The components of a diffusers `StableDiffusionPipeline`, all frozen."""

    network: UNet2DConditionModel
    fingerprint: str
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler_config: Mapping[str, Any]
    schedule: NoiseSchedule
    read: OutputReader
    dtype: torch.dtype = torch.float32
    revision: str | None = None
    long_prompts: LongPrompts = "cut"
    decoder: AutoencoderTiny | None = None
    """Decodes in place of the VAE, where there is one; see `fewstep.models.tiny_decoder`."""
    lora_presets: ClassVar[Mapping[str, Sequence[str]]] = PRESETS

    def pipeline(
        self, network: nn.Module, scheduler_config: Mapping[str, Any] | None = None
    ) -> "diffusers.StableDiffusionPipeline":  # read, it would be imported
        """Return diffusers' own pipeline of these components, with `network` as the UNet."""
        return diffusers.StableDiffusionPipeline(
            self.vae, self.text_encoder, self.tokenizer, network,
            diffusers_scheduler(scheduler_config), None, None,
            requires_safety_checker=False,
        )  # fmt: skip

    def checkpoint_weights(self, network: nn.Module) -> dict[str, Tensor]:
        """Return the weights of the whole model, with `network` as the UNet, by LDM's names."""
        networks = {"unet": network, "vae": self.vae, "text_encoder": self.text_encoder}
        return ldm_weights(networks)

    def with_own_text_encoder(self) -> Self:
        """Return the family with a copy of its text encoder, which may then be changed."""
        return replace(self, text_encoder=deepcopy(self.text_encoder))

    @property
    def ldm_blocks(self) -> Mapping[str, Any]:
        """Empty: kohya's names of LoRAs are diffusers'."""
        return {}

    @property
    def vae_and_text_encoder(self) -> tuple[nn.Module, ...]:
        """The networks that decide what a cache of latents and prompts holds."""
        return self.vae, self.text_encoder

    @property
    def encoding_settings(self) -> Mapping[str, Any]:
        """The scale of the latents, and a checksum of the tokens and their number."""
        scale = self.vae.config.scaling_factor
        return {"scaling_factor": scale, "tokenizer": tokenizer_digest(self.tokenizer)}

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def denoiser(self, network: nn.Module) -> Denoiser[Prediction]:
        """Turn a UNet, adapted or not, into a denoiser in the family's precision.

        Weights of that precision are used as they are; those in fp32, as whole networks that are
        trained have them, are cast by autocast. Autocast keeps no cache here, the caller's neither:
        a weight that the target's call casts without a gradient would serve the student's as well.
        """
        weights = next(network.parameters()).dtype
        casts = weights != self.dtype
        device = autocast_device(self.device)

        def denoise(x_t: Latents, t: Timesteps, cond: Conditioning) -> Prediction:
            t = t.clamp(min=0)  # no network knows CLEAN; the step of length zero ignores this
            text, mask = cond["text"].to(weights), cond.get(MASK)
            is_open = torch.is_autocast_enabled(device)
            dtype = torch.get_autocast_dtype(device) if is_open else self.dtype
            with torch.autocast(device, dtype, casts or is_open, cache_enabled=False):
                output = network(
                    x_t.to(weights), t, encoder_hidden_states=text, encoder_attention_mask=mask,
                    return_dict=False, **self.more_inputs(x_t, cond),
                )  # fmt: skip
            return self.read(output[0].to(x_t.dtype), x_t, t, self.schedule)

        return denoise

    def more_inputs(self, x_t: Latents, cond: Conditioning) -> dict[str, Any]:
        """Return what the UNet takes beside latents, timesteps and prompts."""
        return {}

    def prompt_lengths(self, prompts: Sequence[str]) -> Sequence[PromptLength]:
        """Return each prompt's number of tokens, and what the text encoder takes of it."""
        return prompt_lengths(self.tokenizer, prompts)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return {"text": [prompts, tokens, dim]}; of a long prompt only the first chunk, if cut.

        With `long_prompts` "chunks" each chunk is encoded by itself, those of a prompt follow one
        another, and there is a mask.
        """
        tokens, counts = self.tokens(self.tokenizer, prompts)
        return self.by_prompt(self.encoded(self.text_encoder, tokens)[0].float(), counts)

    def encoded(self, encoder: Any, tokens: Tensor) -> tuple[Tensor, ...]:
        """Return what is used of a text encoder's output, [texts, tokens, dim]."""
        return (encoder(tokens).last_hidden_state,)

    def tokens(self, tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> tuple[Tensor, list[int]]:
        """Return the tokens of all chunks, [chunks, tokens], and how many chunks a prompt has."""
        chunks = chunks_of(tokenizer, prompts)
        if self.long_prompts == "cut":
            chunks = [own[:1] for own in chunks]
        tokens = torch.tensor([chunk for own in chunks for chunk in own], device=self.device)
        return tokens, [len(own) for own in chunks]

    def by_prompt(self, text: Tensor, counts: list[int]) -> Conditioning:
        """Join the encoded chunks of each prompt."""
        if self.long_prompts == "cut":
            return {"text": text}
        rows = [part.flatten(0, 1)[None] for part in text.split(counts)]
        ones = (torch.ones(row.shape[:2], dtype=torch.bool, device=self.device) for row in rows)
        return joined([{"text": r, MASK: m} for r, m in zip(rows, ones, strict=True)])

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> tuple[Latents, Latents]:
        """Return mean and standard deviation of the latents of [batch, 3, H, W] in [0, 1]."""
        scale = self.vae.config.scaling_factor
        at_once = max(1, PIXELS_AT_ONCE // images[0, 0].numel())
        halves = []
        for part in images.split(at_once):
            latents = self.vae.encode(2 * part.to(self.device) - 1).latent_dist
            halves.append((scale * latents.mean, scale * latents.std))
        mean, std = (torch.cat(half) for half in zip(*halves, strict=True))
        return mean, std

    @torch.no_grad()
    def decode(self, latents: Latents) -> Tensor:
        """Return images [batch, 3, H, W] in [0, 1]; a value that is not finite becomes NaN."""
        at_once = max(1, PIXELS_AT_ONCE // (latents[0, 0].numel() * self._vae_factor**2))
        vae = self.decoder or self.vae
        scaled = latents / vae.config.scaling_factor
        images = torch.cat([vae.decode(part).sample for part in scaled.split(at_once)])
        images = images.masked_fill(~images.isfinite(), torch.nan)  # which clamping would hide
        return (images / 2 + 0.5).clamp(0, 1)

    @property
    def _vae_factor(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def default_resolution(self) -> int:
        """The side in pixels of the images that the model was trained on."""
        return self.network.config.sample_size * self._vae_factor

    @property
    def image_divisor(self) -> int:
        """What an image's sides have to be multiples of: autoencoder and UNet halve."""
        return self._vae_factor * 2 ** (len(self.network.config.block_out_channels) - 1)

    def latent_shape(self, height: int, width: int | None = None) -> tuple[int, int, int]:
        """Return (channels, height, width) of an image's latents, of a square one by default.

        Raises:
            ModelError: if the autoencoder cannot divide the image evenly.
        """
        factor, divisor = self._vae_factor, self.image_divisor
        sides = {"data.resolution": height} if width is None else {"height": height, "width": width}
        for name, side in sides.items():
            if side < divisor or side % divisor:
                lower = max(side // divisor, 1) * divisor
                raise ModelError(
                    f"{name} is {side}; this model needs a multiple of {divisor}, "
                    f"such as {lower} or {lower + divisor}"
                )
        width = height if width is None else width
        return self.network.config.in_channels, height // factor, width // factor

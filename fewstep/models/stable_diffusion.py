"""Stable Diffusion 1.x and 2.x: one text encoder, a UNet on latents, an autoencoder."""

# diffusers hands out its configs and networks without types
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportPrivateImportUsage=false

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from fewstep.diffusion.prediction import Prediction, Reading, reading
from fewstep.diffusion.schedule import NoiseSchedule
from fewstep.models.base import ModelError, fingerprint
from fewstep.types import Conditioning, Denoiser, Latents, Timesteps

PARTS = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
}

PIXELS_AT_ONCE = 64 * 64**2
"""How much the autoencoder is given at once: 64 pictures of 64 pixels, one of 512."""


@dataclass(frozen=True)
class StableDiffusion:
    """The parts of a diffusers `StableDiffusionPipeline`, all frozen."""

    network: UNet2DConditionModel
    fingerprint: str
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler_config: Mapping[str, Any]
    schedule: NoiseSchedule
    read: Reading

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        revision: str | None = None,
        variant: str | None = None,
    ) -> Self:
        """Load a diffusers folder or a Hub id; safetensors only.

        Raises:
            ModelError: if a part is missing, half-written or of a kind that is not known.
        """
        where = {"revision": revision} | ({"variant": variant} if variant else {})
        parts: dict[str, Any] = {}
        for name, kind in PARTS.items():
            with _explained(source, name):
                part = kind.from_pretrained(
                    source, subfolder=name, use_safetensors=True, torch_dtype=torch.float32, **where
                )
                parts[name] = part.requires_grad_(False).eval()
        with _explained(source, "tokenizer"):
            tokenizer = CLIPTokenizer.from_pretrained(
                source, subfolder="tokenizer", revision=revision
            )
            words, rows = len(tokenizer), parts["text_encoder"].config.vocab_size
            if words != rows:  # transformers makes an empty tokenizer where there is none
                raise ValueError(f"it has {words} tokens, the text encoder {rows}")
        with _explained(source, "scheduler"):
            config = _scheduler_config(source, revision)
        try:
            schedule = NoiseSchedule.from_config(config)
            read = reading(config.get("prediction_type", "epsilon"), schedule)
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"cannot use the scheduler of {source}: {error}") from error
        return cls(
            fingerprint=fingerprint(parts["unet"]),  # before the cast
            network=parts["unet"].to(device, dtype),
            vae=parts["vae"].to(device),
            text_encoder=parts["text_encoder"].to(device),
            tokenizer=tokenizer,
            scheduler_config=config,
            schedule=schedule.to(device),
            read=read,
        )

    @property
    def codec_parts(self) -> tuple[nn.Module, ...]:
        """The networks that decide what a cache of latents and prompts holds."""
        return self.vae, self.text_encoder

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def denoiser(self, network: nn.Module) -> Denoiser[Prediction]:
        """Turn a UNet, adapted or not, into a denoiser; the network runs in its own dtype."""
        dtype = next(network.parameters()).dtype

        def denoise(x_t: Latents, t: Timesteps, cond: Conditioning) -> Prediction:
            t = t.clamp(min=0)  # no network knows CLEAN; the step of length zero ignores this
            output = network(
                x_t.to(dtype), t, encoder_hidden_states=cond["text"].to(dtype), return_dict=False
            )[0]
            return self.read(output.to(x_t.dtype), x_t, t, self.schedule)

        return denoise

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return {"text": [prompts, tokens, dim]}; a prompt that is too long loses its end."""
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        text = self.text_encoder(tokens.input_ids.to(self.device), return_dict=False)[0]
        return {"text": text.float()}

    @torch.no_grad()
    def encode_pictures(self, pictures: Tensor) -> tuple[Latents, Latents]:
        """Return mean and standard deviation of the latents of [batch, 3, H, W] in [0, 1]."""
        scale = self.vae.config.scaling_factor
        at_once = max(1, PIXELS_AT_ONCE // pictures[0, 0].numel())
        halves = []
        for part in pictures.split(at_once):
            latents = self.vae.encode(2 * part.to(self.device) - 1).latent_dist
            halves.append((scale * latents.mean, scale * latents.std))
        mean, std = (torch.cat(half) for half in zip(*halves, strict=True))
        return mean, std

    @torch.no_grad()
    def decode(self, latents: Latents) -> Tensor:
        """Return pictures [batch, 3, H, W] in [0, 1]."""
        at_once = max(1, PIXELS_AT_ONCE // (latents[0, 0].numel() * self._vae_factor**2))
        scaled = latents / self.vae.config.scaling_factor
        pictures = torch.cat([self.vae.decode(part).sample for part in scaled.split(at_once)])
        return (pictures / 2 + 0.5).clamp(0, 1)

    @property
    def _vae_factor(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def default_resolution(self) -> int:
        """The side in pixels of the pictures that the model was trained on."""
        return self.network.config.sample_size * self._vae_factor

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """Return (channels, height, width) of the latents of a square picture.

        Raises:
            ModelError: if the autoencoder cannot divide the picture evenly.
        """
        factor = self._vae_factor
        divisor = factor * 2 ** (len(self.network.config.block_out_channels) - 1)
        if resolution % divisor:
            lower = max(resolution // divisor, 1) * divisor
            raise ModelError(
                f"data.resolution is {resolution}; this model needs a multiple of {divisor}, "
                f"such as {lower} or {lower + divisor}"
            )
        return self.network.config.in_channels, resolution // factor, resolution // factor


class _explained:
    """Turn a loading failure of a part into one sentence that names the part and the source."""

    def __init__(self, source: str | Path, part: str) -> None:
        self.source, self.part = source, part

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        known = (OSError, ValueError, KeyError, RuntimeError, AttributeError, SafetensorError)
        if isinstance(error, known):
            reason = " ".join(str(error).split())[:300]
            raise ModelError(
                f"cannot load the {self.part} of {self.source}: it has to be a diffusers folder or "
                f"Hub id of Stable Diffusion with a whole '{self.part}' in safetensors ({reason})"
            ) from error


def _scheduler_config(source: str | Path, revision: str | None) -> Mapping[str, Any]:
    path = Path(source) / "scheduler" / "scheduler_config.json"
    if not Path(source).is_dir():
        from huggingface_hub import hf_hub_download

        path = hf_hub_download(str(source), "scheduler/scheduler_config.json", revision=revision)
    return json.loads(Path(path).read_text(encoding="utf-8"))

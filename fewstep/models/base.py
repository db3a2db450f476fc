"""What every model family offers to the rest of the package."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from fewstep.config import LongPrompts
from fewstep.diffusion.prediction import Prediction
from fewstep.diffusion.schedule import NoiseSchedule
from fewstep.errors import UserError
from fewstep.types import Conditioning, Denoiser, Latents

TEXT_MODEL = "text_model."
"""What the names of CLIP's text encoder's weights start with in files.

transformers from 5.6 on writes them without it and reads both. The versions before read no weight
without it, and raise nothing.
"""


class ModelError(UserError):
    """A model that cannot be used; the message says what is missing and how to fix it."""


@dataclass(frozen=True)
class PromptLength:
    """A prompt's tokens, how many of them the text encoder reads at once, and what is beyond."""

    tokens: int
    limit: int
    beyond: str

    @property
    def chunks(self) -> int:
        """How many texts of the encoder's length the prompt fills; the empty one is one too."""
        return max(1, ceil(self.tokens / self.limit))


def prediction_type(family: "ModelFamily") -> str:
    """Return what the family's network predicts, by diffusers' name."""
    return family.scheduler_config.get("prediction_type", "epsilon")


def fingerprint(*networks: nn.Module) -> str:
    """Return the digest of all weights; take it before they are cast to another precision.

    Networks on the meta device have no weights: theirs is empty.
    """
    if any(weight.is_meta for network in networks for weight in network.parameters()):
        return ""
    return digest(*(network.state_dict() for network in networks))


def digest(*tables: Mapping[str, Tensor]) -> str:
    """Return the sha256 of tensors, rounded to fp16 so that files in fp16 and fp32 agree.

    A text encoder's names count without `text_model.`, which transformers left out from 5.6 on.
    """
    return _digest(
        {name.removeprefix(TEXT_MODEL): weight for name, weight in table.items()}
        for table in tables
    )


def earlier_fingerprint(*networks: nn.Module) -> str:
    """Return the fingerprint of an autoencoder and a text encoder as release 0.1.0 took it.

    With the transformers of before 5.6 the names of the text encoder, the last, began otherwise.
    """
    *others, text_encoder = (network.state_dict() for network in networks)
    text = {TEXT_MODEL + n.removeprefix(TEXT_MODEL): w for n, w in text_encoder.items()}
    return _digest([*others, text])


def _digest(tables: Iterable[Mapping[str, Tensor]]) -> str:
    sha = hashlib.sha256()
    for table in tables:
        for name, weight in sorted(table.items()):
            sha.update(f"{name} {tuple(weight.shape)}".encode())
            sha.update(weight.detach().cpu().to(torch.float16).contiguous().numpy().data)
    return sha.hexdigest()


class ModelFamily(Protocol):
    """A text-to-image model, cut into the components that distillation and sampling need.

    What it has no format for (`pipeline`, `checkpoint_weights`) it refuses with a ModelError.
    """

    network: nn.Module
    """The network that is distilled, frozen."""
    fingerprint: str
    """The network's fingerprint as it was stored, whatever its precision is now."""
    dtype: torch.dtype
    """The precision that denoisers compute in."""
    long_prompts: LongPrompts
    """Whether prompts that are longer than the text encoder reads are cut, or read in chunks."""
    revision: str | None
    """The commit on the Hub that the weights are of."""
    vae_and_text_encoder: Sequence[nn.Module]
    """The networks that encode images and prompts."""
    encoding_settings: Mapping[str, Any]
    """What decides latents and conditioning besides those networks' weights, as JSON."""
    schedule: NoiseSchedule
    """The noise levels, on the network's device."""
    scheduler_config: Mapping[str, Any]
    """diffusers' scheduler config, from which the schedule was made."""
    lora_presets: Mapping[str, Sequence[str]]
    """How the names of the modules end that a LoRA of each `adapter.preset` changes."""
    ldm_blocks: Mapping[str, Any]
    """What kohya's names of the network's LoRAs follow from, where they are LDM's: JSON, or {}."""
    default_resolution: int
    """The side in pixels of the images that the model was trained on."""
    image_divisor: int
    """What the sides of an image have to be multiples of."""

    def latent_shape(self, height: int, width: int | None = None) -> tuple[int, int, int]:
        """Return (channels, height, width) of an image's latents, of a square one by default.

        Raises:
            ModelError: if a side in pixels cannot be used.
        """
        ...

    def denoiser(self, network: nn.Module) -> Denoiser[Prediction]:
        """Turn a network of this family, adapted or not, into a denoiser in fp32."""
        ...

    def prompt_lengths(self, prompts: Sequence[str]) -> Sequence[PromptLength]:
        """Return how long each prompt is beside what the text encoder reads."""
        ...

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return the conditioning of each prompt, one row a prompt.

        Where rows can be of different lengths it has a mask, see `fewstep.diffusion.conditioning`.
        """
        ...

    def encode_images(self, images: Tensor) -> tuple[Latents, Latents]:
        """Return mean and standard deviation of the latents of [batch, 3, H, W] in [0, 1]."""
        ...

    def decode(self, latents: Latents) -> Tensor:
        """Return images [batch, 3, H, W] in [0, 1], or NaN where the decoder gives no number."""
        ...

    def pipeline(
        self, network: nn.Module, scheduler_config: Mapping[str, Any] | None = None
    ) -> Any:
        """Return diffusers' own pipeline of the model, with `network` in its place."""
        ...

    def checkpoint_weights(self, network: nn.Module) -> dict[str, Tensor]:
        """Return the weights of the model with `network` by the names of its checkpoint files."""
        ...

    def with_own_text_encoder(self) -> Self:
        """Return a copy whose text encoder can be changed without changing this one's."""
        ...

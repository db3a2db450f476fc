"""Stable Diffusion XL: two text encoders, a pooled prompt and the image's size beside Stable
Diffusion's inputs."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import diffusers
import torch
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from fewstep.models.components import explained, read_json
from fewstep.models.ldm import XL_PREFIXES, ldm_weights
from fewstep.models.parts import load_parts
from fewstep.models.stable_diffusion import NETWORKS, StableDiffusion, diffusers_scheduler
from fewstep.models.supported import check_xl_configs
from fewstep.models.tokenizer import tokenizer_digest
from fewstep.types import Conditioning, Latents

XL_NETWORKS = NETWORKS | {"text_encoder_2": CLIPTextModelWithProjection}

TEXT, POOLED = "text", "pooled"
"""The entries of a conditioning: each token of both encoders, and the second's whole prompt."""


def load_stable_diffusion_xl(source: str | Path, **options: Any) -> "StableDiffusionXL":
    """Load a diffusers folder or Hub id; see `load_parts`."""
    check_xl_configs(source, options["revision"], options["base"])
    with explained(source, "model_index.json"):
        index = read_json(source, "model_index.json", options["revision"])[0]
    parts = load_parts(source, XL_NETWORKS, XL_PREFIXES, **options)
    return StableDiffusionXL(**parts, zero_empty=index.get("force_zeros_for_empty_prompt", True))


@dataclass(frozen=True, kw_only=True)
class StableDiffusionXL(StableDiffusion):
    """The components of a diffusers `StableDiffusionXLPipeline`, all frozen.

    With `zero_empty` the empty prompt's conditioning is zeros, as diffusers has it by default.
    """

    text_encoder_2: CLIPTextModelWithProjection
    tokenizer_2: CLIPTokenizer
    zero_empty: bool = True

    def pipeline(
        self, network: nn.Module, scheduler_config: Mapping[str, Any] | None = None
    ) -> "diffusers.StableDiffusionXLPipeline":
        """Return diffusers' own pipeline of these components, with `network` as the UNet."""
        return diffusers.StableDiffusionXLPipeline(
            self.vae, self.text_encoder, self.text_encoder_2, self.tokenizer, self.tokenizer_2,
            network, diffusers_scheduler(scheduler_config),  # type: ignore[arg-type]
            force_zeros_for_empty_prompt=self.zero_empty, add_watermarker=False,
        )  # fmt: skip

    def checkpoint_weights(self, network: nn.Module) -> dict[str, Tensor]:
        """Return the weights of the whole model, with `network` as the UNet, by LDM's names."""
        encoders = {"text_encoder": self.text_encoder, "text_encoder_2": self.text_encoder_2}
        return ldm_weights({"unet": network, "vae": self.vae, **encoders}, XL_PREFIXES)

    def with_own_text_encoder(self) -> Self:
        """Return the family with copies of its text encoders, which may then be changed."""
        first, second = deepcopy(self.text_encoder), deepcopy(self.text_encoder_2)
        return replace(self, text_encoder=first, text_encoder_2=second)

    @property
    def ldm_blocks(self) -> Mapping[str, Any]:
        """What kohya's names of LoRAs follow from: for XL they are LDM's."""
        config = self.network.config
        blocks = ("layers_per_block", "up_block_types")
        return {name: config[name] for name in blocks}

    @property
    def vae_and_text_encoder(self) -> tuple[nn.Module, ...]:
        """The networks that decide what a cache of latents and prompts holds."""
        return self.vae, self.text_encoder, self.text_encoder_2

    @property
    def encoding_settings(self) -> Mapping[str, Any]:
        """The scale of the latents, both tokenizers, and what the empty prompt is."""
        more = {"tokenizer_2": tokenizer_digest(self.tokenizer_2), "zero_empty": self.zero_empty}
        return {**super().encoding_settings, **more}

    def more_inputs(self, x_t: Latents, cond: Conditioning) -> dict[str, Any]:
        """Return the pooled prompt, and the latents' size as the original's and the wanted one's.

        Uncropped and of its own size is what diffusers' pipelines ask for by default.
        """
        height, width = (side * self._vae_factor for side in x_t.shape[-2:])
        sizes = torch.tensor([height, width, 0, 0, height, width], device=x_t.device)
        pooled = cond[POOLED]
        time_ids = sizes.to(pooled.dtype).expand(len(x_t), -1)
        return {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": time_ids}}

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return {"text": [prompts, tokens, both dims], "pooled": [prompts, dim]}.

        Of a prompt in chunks, "pooled" is of the first.
        """
        outputs, counts = [], []
        for tokenizer, encoder in (
            (self.tokenizer, self.text_encoder),
            (self.tokenizer_2, self.text_encoder_2),
        ):
            tokens, counts = self.tokens(tokenizer, prompts)
            outputs.append(self.encoded(encoder, tokens))
        text = torch.cat([output[0] for output in outputs], -1).float()
        firsts = [sum(counts[:number]) for number in range(len(counts))]
        pooled = outputs[-1][1].float()[firsts]
        cond = {**self.by_prompt(text, counts), POOLED: pooled}
        if self.zero_empty:
            empty = [row for row, prompt in enumerate(prompts) if not prompt]
            cond[TEXT][empty], pooled[empty] = 0, 0
        return cond

    def encoded(self, encoder: Any, tokens: Tensor) -> tuple[Tensor, ...]:
        """Return what is used of a text encoder's output; of the second, the whole prompt too."""
        output = encoder(tokens, output_hidden_states=True)
        pooled = getattr(output, "text_embeds", None)
        return (output.hidden_states[-2],) if pooled is None else (output.hidden_states[-2], pooled)

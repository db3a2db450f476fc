"""OpenVINO on a CPU: a family whose networks it computes, from the files of an export."""

# pyright: reportMissingImports=false
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

from fewstep.diffusion.schedule import NoiseSchedule
from fewstep.errors import UserError
from fewstep.models.base import ModelError, ModelFamily
from fewstep.models.components import explained, read_json
from fewstep.models.loading import MODELS, quietly
from fewstep.models.stable_diffusion import StableDiffusion
from fewstep.models.stable_diffusion_xl import StableDiffusionXL

XML = "openvino_model.xml"
UNET, DECODER, ENCODER = "unet", "vae_decoder", "vae_encoder"
"""The folders of the networks' files, beside those of the text encoders; names are optimum-intel's,
of the inputs too."""
HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}
"""Its names of the precisions that it is told to compute in; where it can, it takes bf16 itself."""


def library() -> Any:
    """Return OpenVINO, which sends nobody how it is used unless it was imported before.

    Raises:
        UserError: if it is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if not there
    try:
        import openvino
    except ImportError as error:
        raise UserError("OpenVINO is not installed: pip install 'fewstep[openvino]'") from error
    return openvino


@cache
def core() -> Any:
    """Return the only one of this process.

    Each gives the thread that makes it another stack for signals, and puts the one before back as
    it is freed. Of two freed in the order in which they came, that one is gone by then, and the
    next Ctrl-C is a segmentation fault (OpenVINO 2026.4).

    Raises:
        UserError: if OpenVINO is not installed.
    """
    return library().Core()


def version() -> str:
    """Return the library's version without its build."""
    return library().__version__.partition("-")[0]


def text_encoders(family: StableDiffusion) -> list[str]:
    """Return the names of the family's text encoders."""
    is_xl = isinstance(family, StableDiffusionXL)
    return ["text_encoder", "text_encoder_2"] if is_xl else ["text_encoder"]


class _Computed(nn.Module):
    """A network with its config, computed by OpenVINO; an empty weight tells device and dtype."""

    def __init__(self, config: Any, compiled: Callable[[str], Any]) -> None:
        super().__init__()
        self.config, self.compiled = config, compiled
        self.weight = nn.Parameter(torch.empty(0), requires_grad=False)

    def run(self, name: str, **inputs: Tensor) -> list[Tensor]:
        arrays = {key: value.contiguous().numpy() for key, value in inputs.items()}
        return [torch.from_numpy(array) for array in self.compiled(name)(arrays).to_tuple()]


class _Unet(_Computed):
    """Called as diffusers' UNet is."""

    def forward(
        self, sample, timestep, *, encoder_attention_mask=None, added_cond_kwargs=None,
        return_dict=False, **text,
    ):  # fmt: skip
        more = dict(added_cond_kwargs or {})
        if encoder_attention_mask is not None:
            more["encoder_attention_mask"] = encoder_attention_mask
        return self.run(UNET, sample=sample, timestep=timestep, **text, **more)


class _Vae(_Computed):
    """Called as diffusers' AutoencoderKL is."""

    def decode(self, latents):
        return SimpleNamespace(sample=self.run(DECODER, latent_sample=latents)[0])

    def encode(self, images):
        (moments,) = self.run(ENCODER, sample=images)
        return SimpleNamespace(latent_dist=DiagonalGaussianDistribution(moments))


class _TextEncoder(_Computed):
    """Called as transformers' encoders of CLIP are; what the family does not read is None."""

    def __init__(self, name: str, config: Any, compiled: Callable[[str], Any]) -> None:
        super().__init__(config, compiled)
        self.name = name

    def forward(self, tokens, output_hidden_states=False):
        text, *pooled = self.run(self.name, input_ids=tokens)
        hidden = {"last_hidden_state": text, "hidden_states": (text, None)}
        return SimpleNamespace(**hidden, text_embeds=next(iter(pooled), None))


def load_converted(
    folder: Path, schedule: NoiseSchedule, dtype: torch.dtype, **options: Any
) -> ModelFamily:
    """Return the family whose networks an export put into a folder, in as many threads as torch.

    `options` are the `base` that errors name and `long_prompts`.

    Raises:
        UserError: if OpenVINO is not installed, cannot read a file, or this CPU has no such dtype.
    """
    able = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if dtype not in HINTS or (dtype == torch.bfloat16 and "BF16" not in able):
        raise UserError(f"OpenVINO does not compute in {dtype} on this CPU: use fp32")
    hints = {"INFERENCE_PRECISION_HINT": HINTS[dtype],
             "INFERENCE_NUM_THREADS": torch.get_num_threads()}  # fmt: skip

    @cache
    def compiled(name: str) -> Any:
        try:
            return core().compile_model(folder / name / XML, "CPU", hints)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-200:]
            raise ModelError(
                f"OpenVINO {version()} cannot read {folder / name / XML} ({reason}); export "
                "the student again with this version"
            ) from error

    with explained(folder, "model_index.json"), quietly():
        load = MODELS[read_json(folder, "model_index.json", None)[0]["_class_name"]]
        family = load(folder, device="meta", revision=None, **options)
    encoders = {name: _TextEncoder(name, getattr(family, name).config, compiled)
                for name in text_encoders(family)}  # fmt: skip
    for name in (*encoders, UNET, DECODER):  # the encoder of images is seldom used
        compiled(name)
    return replace(
        family,
        network=_Unet(family.network.config, compiled),
        vae=_Vae(family.vae.config, compiled),
        schedule=schedule,
        **encoders,
    )

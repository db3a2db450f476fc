"""From a name, a folder or a Hub id to a model of a known family."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from fewstep.models.base import ModelError, ModelFamily
from fewstep.models.stable_diffusion import StableDiffusion

MODELS: dict[str, type[StableDiffusion]] = {"StableDiffusionPipeline": StableDiffusion}
"""Model families by the pipeline class that a model's `model_index.json` names."""


def default_device() -> str:
    """Return the GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_model(
    base: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    revision: str | None = None,
    variant: str | None = None,
) -> ModelFamily:
    """Load the model that `base` names: "bundled", a diffusers folder or a Hub id.

    Raises:
        ModelError: if it is none of them, its family is not known, or a part is missing.
    """
    source = bundled_folder() if base == "bundled" else base
    name = _model_index(source, revision).get("_class_name")
    if name not in MODELS:
        raise ModelError(f"{base} is a {name}; the families known are: {', '.join(MODELS)}")
    with _quietly():
        return MODELS[name].load(
            source, dtype=dtype, device=device, revision=revision, variant=variant
        )


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the libraries' progress bars and advice out of ours while they load."""
    libraries = (diffusers_logging, transformers_logging)
    levels = [library.get_verbosity() for library in libraries]
    shows_bars = transformers_logging.is_progress_bar_enabled()
    for library in libraries:
        library.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
        if shows_bars:
            transformers_logging.enable_progress_bar()


def bundled_folder() -> Path:
    """Return the folder of the teacher that is shipped with the package."""
    return Path(__file__).parents[1] / "bundled" / "weights" / "teacher"


def _model_index(source: str | Path, revision: str | None) -> dict[str, Any]:
    path = Path(source) / "model_index.json"
    try:
        if not Path(source).exists():
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(str(source), "model_index.json", revision=revision))
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"cannot load {source}: it is neither a diffusers folder with a model_index.json nor a "
            f"Hub id that can be reached ({reason})"
        ) from error

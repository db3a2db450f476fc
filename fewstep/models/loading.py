"""From a name, a folder, a Hub id or a checkpoint file to a model of a known family."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from fewstep.models.architectures import (
    ARCHITECTURES,
    architecture_folder,
    known_architecture,
)
from fewstep.models.base import ModelError, ModelFamily
from fewstep.models.single_file import PICKLED, SAFE, check_config, check_networks, configs_of
from fewstep.models.stable_diffusion import StableDiffusion
from fewstep.models.stable_diffusion_parts import (
    read_file,
    read_folder,
    read_table,
    skeleton,
)


@dataclass(frozen=True)
class Reader:
    """How the models of a family are read, with and without weights, and put together."""

    folder: Callable[..., Any]
    file: Callable[..., Any]
    skeleton: Callable[..., Any]
    put_together: Callable[..., ModelFamily]


MODELS = {
    "StableDiffusionPipeline": Reader(read_folder, read_file, skeleton, StableDiffusion.of),
}
"""Model families by the pipeline class that a model's `model_index.json` names."""

STUDENT = "fewstep.json"
"""The contract of a student, which whole models with one inside have beside their parts."""


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
    config: str | None = None,
    allow_pickle: bool = False,
) -> ModelFamily:
    """Load the model that `base` names: "bundled", a folder, a Hub id or a checkpoint file.

    A Hub id is pinned: all parts come from the commit that `revision` means now. `config` says how
    a checkpoint file is built where its weights do not.

    Raises:
        ModelError: if it is none of them, its family is not known, or a part is missing.
    """
    check_config(config)
    source = bundled_folder() if base == "bundled" else base
    path = Path(source)
    with quietly():
        if path.is_file():
            with configs_of(path, config, allow_pickle) as configs:
                reader, _ = _reader(configs, None)
                check_networks(path, configs)
                parts = reader.file(path, configs)
        else:
            _refuse_missing_file(path)
            reader, revision = _reader(source, revision)
            parts = reader.folder(source, revision, variant, allow_pickle)
        return reader.put_together(parts, base, dtype=dtype, device=device, revision=revision)


def load_skeleton(
    base: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    config: str | None = None,
    allow_pickle: bool = False,
) -> ModelFamily:
    """Return the model without its weights, on the meta device; the configs are all that is read.

    Hub ids of a known architecture are not asked for, nor any where `config` says how it is built.

    Raises:
        ModelError: as `load_model`, where the configs decide it.
    """
    check_config(config)
    source = bundled_folder() if base == "bundled" else base
    path = Path(source)
    _refuse_missing_file(path)
    with ExitStack() as stack, quietly():
        if path.is_file():
            source = stack.enter_context(configs_of(path, config, allow_pickle))
        elif not path.exists() and _is_hub_id(str(source)):
            name = config or known_architecture(str(source))
            is_known = name in ARCHITECTURES
            source = stack.enter_context(architecture_folder(name)) if is_known else name or source
        reader, revision = _reader(source, revision)
        parts = reader.skeleton(source, revision)
        return reader.put_together(parts, base, dtype=dtype, device="meta")


def _reader(source: str | Path, revision: str | None) -> tuple[Reader, str | None]:
    """Return the family's reader, and of a Hub id the commit that it is read at."""
    index, commit = _model_index(source, revision)
    name = index.get("_class_name")
    if name not in MODELS:
        raise ModelError(f"{source} is a {name}; the families known are: {', '.join(MODELS)}")
    return MODELS[name], commit


def _refuse_missing_file(path: Path) -> None:
    if path.suffix.lower() in (SAFE, *PICKLED) and not path.exists():
        raise ModelError(f"model.base is {str(path)!r}, and there is no such file")


def _is_hub_id(source: str) -> bool:
    """Whether it can be one; a path such as ./folder cannot."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source) is not None


@contextmanager
def quietly() -> Iterator[None]:
    """Keep the libraries' progress bars and advice out of ours while they load."""
    libraries = (diffusers_logging, transformers_logging)
    levels = [library.get_verbosity() for library in libraries]
    shows_bars = transformers_logging.is_progress_bar_enabled()
    for library in libraries:
        library.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    diffusers_logging.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
        if shows_bars:
            transformers_logging.enable_progress_bar()
        diffusers_logging.enable_progress_bar()


def bundled_folder() -> Path:
    """Return the folder of the teacher that is shipped with the package."""
    return Path(__file__).parents[1] / "world" / "weights" / "teacher"


def _model_index(source: str | Path, revision: str | None) -> tuple[dict[str, Any], str | None]:
    path = Path(source) / "model_index.json"
    if (Path(source) / STUDENT).is_file():
        raise ModelError(f"{source} holds a student, as its {STUDENT} says: name its base model")
    try:
        if Path(source).exists():
            return read_table(path), revision
        from huggingface_hub import hf_hub_download

        path = Path(hf_hub_download(str(source), "model_index.json", revision=revision))
        return read_table(path), path.parent.name  # snapshots/COMMIT
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"cannot load {source}: it is neither a diffusers folder with a model_index.json nor a "
            f"checkpoint file, nor a Hub id that can be reached ({reason})"
        ) from error

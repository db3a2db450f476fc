"""From a name, a folder, a Hub id or a checkpoint file to a model of a known family."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from fewstep.config import LongPrompts, Quantize
from fewstep.models.architectures import ARCHITECTURES, architecture_folder, known_architecture
from fewstep.models.base import ModelError, ModelFamily
from fewstep.models.components import read_json
from fewstep.models.hub import hub_file, no_such_path, on_the_hub, out_of_reach
from fewstep.models.safe_files import PICKLED, SAFE
from fewstep.models.single_file import read_checkpoint, recognise
from fewstep.models.stable_diffusion import load_stable_diffusion
from fewstep.models.stable_diffusion_xl import load_stable_diffusion_xl

MODELS: dict[str, Callable[..., Any]] = {
    "StableDiffusionPipeline": load_stable_diffusion,
    "StableDiffusionXLPipeline": load_stable_diffusion_xl,
}
"""What loads a family, as `load_stable_diffusion`, by the class that model_index.json names."""

STUDENT_FILE = "fewstep.json"
"""A student's contract, which a whole model that holds one has beside its components."""


def default_device() -> str:
    """Return the GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def bundled_folder() -> Path:
    """Return the folder of the teacher that is shipped with the package."""
    return Path(__file__).parents[1] / "world" / "weights" / "teacher"


def load_model(
    base: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    quantize: Quantize = "none",
    device: torch.device | str = "cpu",
    revision: str | None = None,
    variant: str | None = None,
    config: str | None = None,
    allow_pickle: bool = False,
    long_prompts: LongPrompts = "cut",
) -> ModelFamily:
    """Load the model that `base` names: "bundled", a folder, a Hub id or a checkpoint file.

    A Hub id is pinned: all components come from the commit that `revision` means now. `config`, a
    name in ARCHITECTURES or a diffusers folder, says how a checkpoint file is built where its
    weights do not. On the meta device no weights are read, and of a Hub id whose architecture is
    known, or given by `config`, nothing is.

    Raises:
        ModelError: if it is none of them, its family is not known, or a component is missing.
    """
    source = bundled_folder() if base == "bundled" else base
    path, weights, built_as = Path(source), None, None
    is_skeleton = torch.device(device).type == "meta"
    _check_paths(path, config)
    with ExitStack() as stack, quietly():
        if path.is_file():
            weights, metadata = read_checkpoint(path, allow_pickle, device)
            built_as = config or recognise(path, weights, metadata)
        elif is_skeleton and on_the_hub(str(base)):
            built_as = config or known_architecture(str(source))
        if built_as in ARCHITECTURES:
            built_as = stack.enter_context(architecture_folder(built_as))
        configs = built_as or source
        load, revision = _family(configs, revision)
        if on_the_hub(str(configs)) and out_of_reach():
            configs = hub_file(str(configs), "model_index.json", revision).parent
        return load(
            configs, base=base, checkpoint=weights, dtype=dtype, quantize=quantize, device=device,
            revision=revision, variant=variant, allow_pickle=allow_pickle,
            long_prompts=long_prompts,
        )  # fmt: skip


def _check_paths(path: Path, config: str | None) -> None:
    """Refuse a checkpoint file that is not there, and a config that is none."""
    if config is not None and config not in ARCHITECTURES and not Path(config).is_dir():
        raise ModelError(
            f"model.config is {config!r}; it has to be {', '.join(ARCHITECTURES)} or a diffusers "
            "folder"
        )
    if path.suffix.lower() in (SAFE, *PICKLED) and not path.exists():
        raise ModelError(f"model.base is {str(path)!r}, and there is no such file")


def load_skeleton(base: str | Path, **options) -> ModelFamily:
    """Return the model on the meta device, from its configs alone; options as `load_model`'s."""
    return load_model(base, device="meta", **options)


def _family(source: str | Path, revision: str | None) -> tuple[Callable[..., Any], str | None]:
    """Return what loads a model's family, and of a Hub id the commit that `revision` means."""
    if (Path(source) / STUDENT_FILE).is_file():
        raise ModelError(
            f"{source} holds a student, as its {STUDENT_FILE} says: name its base model"
        )
    if not Path(source).exists() and not on_the_hub(str(source)):
        raise ModelError(no_such_path(str(source)))
    try:
        index, commit = read_json(source, "model_index.json", revision)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        if not Path(source).exists():
            raise ModelError(
                f"cannot load {source}, which is no file or folder here, from the Hub ({reason}); "
                "check the name, the network, and for a private one the login (hf auth login)"
            ) from error
        raise ModelError(
            f"cannot load {source}: it is neither a diffusers folder with a model_index.json nor a "
            f"checkpoint file ({reason})"
        ) from error
    name = index.get("_class_name")
    if name == "StableDiffusionXLImg2ImgPipeline":
        raise ModelError(
            f"{source} is a {name}, as SDXL's refiner is, which only repaints an image: take the "
            "base model"
        )
    if name not in MODELS:
        raise ModelError(f"{source} is a {name}; the families known are: {', '.join(MODELS)}")
    return MODELS[name], commit


@contextmanager
def quietly() -> Iterator[None]:
    """Turn off the libraries' progress bars and advice while they load."""
    levels = {
        library: library.get_verbosity() for library in (diffusers_logging, transformers_logging)
    }
    shows_bars = transformers_logging.is_progress_bar_enabled()
    for library in levels:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in levels.items():
            library.set_verbosity(level)
            if library is diffusers_logging or shows_bars:
                library.enable_progress_bar()

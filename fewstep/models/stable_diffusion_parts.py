"""The parts of a Stable Diffusion model, read from a folder, the Hub or one checkpoint file."""

# diffusers hands out its configs and networks without types
# pyright: reportOptionalMemberAccess=false
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportPrivateImportUsage=false

import json
import pickle
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import SingleFileComponentError
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from fewstep.models.base import ModelError

MORE_THAN_WEIGHTS = (
    "it is pickled and holds more than weights, or none, as a git-LFS pointer does: convert it to "
    ".safetensors, or get it again"
)

NETWORKS = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}


@dataclass(frozen=True)
class Parts:
    """What a diffusers `StableDiffusionPipeline` consists of; its networks are in fp32."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler_config: Mapping[str, Any]


def read_folder(
    source: str | Path, revision: str | None, variant: str | None, allow_pickle: bool
) -> Parts:
    """Read a diffusers folder or a Hub id.

    Raises:
        ModelError: naming the part that is missing, half-written or pickled.
    """
    where: dict[str, Any] = {"revision": revision} | ({"variant": variant} if variant else {})
    where |= {"use_safetensors": None if allow_pickle else True, "torch_dtype": torch.float32}
    networks: dict[str, Any] = {}
    for name, kind in NETWORKS.items():
        with _explained(source, name):
            if not allow_pickle:
                _refuse_pickles(Path(source) / name)
            _check_variant(Path(source) / name, variant)
            networks[name], told = kind.from_pretrained(
                source, subfolder=name, output_loading_info=True, **where
            )
            _check_whole(networks[name], told["missing_keys"])
    tokenizer = _tokenizer(source, revision, networks["text_encoder"].config.vocab_size)
    with _explained(source, "scheduler"):
        scheduler_config = _scheduler_config(source, revision)
    return Parts(**networks, tokenizer=tokenizer, scheduler_config=scheduler_config)


def read_file(path: Path, configs: Path) -> Parts:
    """Read a single-file checkpoint (the layout of A1111 and ComfyUI), built as `configs` says.

    Raises:
        ModelError: if it is damaged, or lacks weights of a part that `configs` describes.
    """
    with _explained(path, "parts"):
        pipeline = StableDiffusionPipeline.from_single_file(
            str(path), config=str(configs), torch_dtype=torch.float32, local_files_only=True
        )
    for name in NETWORKS:
        with _explained(path, name):
            _check_whole(getattr(pipeline, name))
    with _explained(configs, "scheduler"):
        scheduler_config = _scheduler_config(configs, None)
    return Parts(
        unet=pipeline.unet,
        vae=pipeline.vae,
        text_encoder=pipeline.text_encoder,
        tokenizer=_tokenizer(configs, None, pipeline.text_encoder.config.vocab_size),
        scheduler_config=scheduler_config,
    )


def skeleton(source: str | Path, revision: str | None) -> Parts:
    """Return the parts without their weights, on the meta device: from the configs alone."""
    networks: dict[str, Any] = {}
    with torch.device("meta"):
        for name in ("unet", "vae"):
            with _explained(source, name):
                kind = NETWORKS[name]
                config = kind.load_config(source, subfolder=name, revision=revision)
                networks[name] = kind.from_config(config)
        with _explained(source, "text_encoder"):
            config = CLIPTextModel.config_class.from_pretrained(
                source, subfolder="text_encoder", revision=revision
            )
            networks["text_encoder"] = CLIPTextModel(config)
    tokenizer = _tokenizer(source, revision, networks["text_encoder"].config.vocab_size)
    with _explained(source, "scheduler"):
        scheduler_config = _scheduler_config(source, revision)
    return Parts(**networks, tokenizer=tokenizer, scheduler_config=scheduler_config)


def _tokenizer(source: str | Path, revision: str | None, rows: int) -> CLIPTokenizer:
    with _explained(source, "tokenizer"):
        tokenizer = CLIPTokenizer.from_pretrained(source, subfolder="tokenizer", revision=revision)
        if len(tokenizer) != rows:  # transformers makes an empty tokenizer where there is none
            raise ValueError(f"it has {len(tokenizer)} tokens, the text encoder {rows}")
    return tokenizer


def _scheduler_config(source: str | Path, revision: str | None) -> Mapping[str, Any]:
    path = Path(source) / "scheduler" / "scheduler_config.json"
    if not Path(source).is_dir():
        from huggingface_hub import hf_hub_download

        path = hf_hub_download(str(source), "scheduler/scheduler_config.json", revision=revision)
    return read_table(Path(path))


def read_table(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        ValueError: if it is no JSON, or holds something else.
    """
    table = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(table, dict):
        raise ValueError(f"{path.name} holds a {type(table).__name__} in place of an object")
    return table


def _check_variant(folder: Path, variant: str | None) -> None:
    """Refuse a folder whose weights are of another variant alone, such as *.fp16.safetensors."""
    files = [file for file in folder.glob("*") if file.suffix in (".safetensors", ".bin")]
    there = {file.stem.partition(".")[2].split("-")[0] for file in files}  # x.fp16-00001-of-00002
    if there and (variant or "") not in there:
        told = " or ".join(f"model.variant = {name!r}" for name in sorted(there) if name)
        raise ValueError(f"its weights are of another variant: set {told or 'no model.variant'}")


def _refuse_pickles(folder: Path) -> None:
    if not any(folder.glob("*.safetensors")) and (pickles := sorted(folder.glob("*.bin"))):
        raise ValueError(
            f"{pickles[0].name} is pickled, and unpickling may run code that somebody put there: "
            "get it as safetensors, or set model.allow_pickle = true if you trust its origin"
        )


def _check_whole(network: nn.Module, not_found: Collection[str] = ()) -> None:
    """Refuse a network of whose weights some were in no file: transformers makes up `not_found`."""
    missing = [name for name, weight in network.named_parameters()
               if weight.is_meta or name in not_found]  # fmt: skip
    if missing:
        raise ValueError(f"{len(missing)} of its weights are missing, such as {missing[0]}")


@contextmanager
def _explained(source: str | Path, part: str) -> Iterator[None]:
    """Turn a loading failure of a part into one sentence that names the part and the source."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError, SafetensorError,
            SingleFileComponentError, pickle.UnpicklingError) as error:  # fmt: skip
        more = any(isinstance(cause, pickle.UnpicklingError) for cause in _causes(error))
        reason = MORE_THAN_WEIGHTS if more else " ".join(str(error).split())[:400]
        raise ModelError(
            f"cannot load the {part} of {source}: it has to be Stable Diffusion as a diffusers "
            f"folder, a Hub id or a checkpoint file, with a whole '{part}' in safetensors "
            f"({reason})"
        ) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it was raised in place of."""
    while error is not None:
        yield error
        error = error.__context__

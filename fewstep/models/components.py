"""The components of a diffusers model, each read from its folder in a folder or a Hub repository.

A failure is a ModelError that names the component and the source.
"""

import json
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTokenizer

from fewstep.models.base import TEXT_MODEL, ModelError
from fewstep.models.hub import hub_file
from fewstep.versions import installed, known_trouble, matching

NOT_ONLY_WEIGHTS = ("it is pickled and holds more than weights, or none, as a git-LFS pointer "
                    "does: convert it to .safetensors, or get it again")  # fmt: skip
NOT_READ = re.compile(
    r"(position_ids|logit_scale|(text|visual)_projection\.weight)$|^vision_model\."
)
"""Weights of CLIP that a text encoder has no use for."""
UNSAFE = "is pickled, and unpickling may run code that somebody put there"


def read_network(
    kind: type, source: str | Path, name: str, revision: str | None, **options: Any
) -> nn.Module:
    """Read a network in fp32; options are `variant` and `allow_pickle`."""
    folder, variant = Path(source) / name, options["variant"]
    with explained(source, name):
        if not options["allow_pickle"]:
            _refuse_pickles(folder)
        _check_variant(folder, variant)
        network, info = kind.from_pretrained(
            source,
            subfolder=name,
            revision=revision,
            use_safetensors=None if options["allow_pickle"] else True,
            torch_dtype=torch.float32,
            output_loading_info=True,
            **({"variant": variant} if variant else {}),
            **({"low_cpu_mem_usage": False} if matching("diffusers<0.33") else {}),
        )  # else these versions do not tell which weights they left out
        missing = [weight for weight, value in network.named_parameters()
                   if value.is_meta or weight in info["missing_keys"]]  # fmt: skip
        if missing and {TEXT_MODEL + key for key in info["unexpected_keys"]} >= set(missing):
            raise _newer(source, name)
        if missing:  # transformers makes these up
            raise ValueError(f"{len(missing)} of its weights are missing, such as {missing[0]}")
        if unread := [w for w in info["unexpected_keys"] if not NOT_READ.search(w)]:
            raise ValueError(f"{len(unread)} of its weights are not read, such as {unread[0]}")
    return network


def empty_network(kind: type, source: str | Path, name: str, revision: str | None) -> nn.Module:
    """Build a network as its config says, with weights on the meta device."""
    with explained(source, name), init_empty_weights():
        if hasattr(kind, "load_config"):
            config = kind.load_config(source, subfolder=name, revision=revision)
            return kind.from_config(config)
        config_class = kind.config_class
        return kind(config_class.from_pretrained(source, subfolder=name, revision=revision))


def read_tokenizer(
    source: str | Path, revision: str | None, encoder: Any, name: str = "tokenizer"
) -> CLIPTokenizer:
    """Read the tokenizer that goes with a text encoder of the config `encoder`.

    The encoder may have more rows than there are tokens, as padded ones have. Its positions bound
    the length, of which a tokenizer without its own says 1e30.
    """
    with explained(source, name):
        try:
            tokenizer = CLIPTokenizer.from_pretrained(source, subfolder=name, revision=revision)
        except TypeError as error:  # of a path that is None
            if Path(source).exists() and not (Path(source) / name / "tokenizer.json").is_file():
                raise
            raise _newer(source, name) from error
        length, rows = len(tokenizer), encoder.vocab_size
        if length <= len(tokenizer.all_special_ids):  # transformers makes one where there is none
            raise ValueError("it has no tokens")
        if max(tokenizer.get_vocab().values()) >= rows:
            raise ValueError(f"it has {length} tokens, the text encoder {rows}")
        positions = encoder.max_position_embeddings
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    return tokenizer


def _newer(source: object, component: str) -> ModelError:
    """Return the error for a component that is whole, and in a form that came later.

    Those are a text encoder whose names lack `text_model.` and a tokenizer as one file.
    """
    return ModelError(
        f"the {component} of {source} was written by a newer transformers than the "
        f"{installed('transformers')} that is here, which does not read it: upgrade to the "
        "versions in constraints/current.txt, or save the model with these ones again"
    )


def read_scheduler_config(source: str | Path, revision: str | None) -> Mapping[str, Any]:
    """Read the scheduler's settings."""
    with explained(source, "scheduler"):
        return read_json(source, "scheduler/scheduler_config.json", revision)[0]


def read_json(
    source: str | Path, name: str, revision: str | None
) -> tuple[dict[str, Any], str | None]:
    """Return a JSON object, and of a Hub repository the commit; raise OSError or ValueError."""
    path = Path(source) / name
    if not Path(source).exists():
        path = hub_file(str(source), name, revision)
        revision = path.parents[name.count("/")].name  # snapshots/COMMIT
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds a {type(content).__name__} in place of an object")
    return content, revision


@contextmanager
def explained(source: object, component: str) -> Iterator[None]:
    """Turn a loading failure into one sentence that names the component and the source."""
    try:
        yield
    except ModelError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError, SafetensorError,
            pickle.UnpicklingError) as error:  # fmt: skip
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, pickle.UnpicklingError):
            cause = cause.__context__
        reason = NOT_ONLY_WEIGHTS if cause else " ".join(str(error).split())[:400]
        if isinstance(error, AttributeError | TypeError) and (trouble := known_trouble()):
            raise ModelError(
                f"cannot load the {component} of {source} ({reason}), most likely for the "
                f"libraries' versions: {trouble}"
            ) from error
        raise ModelError(
            f"cannot load the {component} of {source}: it has to be a diffusers folder, a Hub id "
            f"or a checkpoint file, with a whole '{component}' in safetensors ({reason})"
        ) from error


def _refuse_pickles(folder: Path) -> None:
    if not any(folder.glob("*.safetensors")) and (pickles := sorted(folder.glob("*.bin"))):
        raise ValueError(
            f"{pickles[0].name} {UNSAFE}: get it as safetensors, or set model.allow_pickle = true "
            "if you trust its origin"
        )


def _check_variant(folder: Path, variant: str | None) -> None:
    """Refuse a folder that holds only weights of another variant, such as *.fp16.safetensors."""
    files = [file for file in folder.glob("*") if file.suffix in (".safetensors", ".bin")]
    found = {file.stem.partition(".")[2].split("-")[0] for file in files}  # x.fp16-00001-of-00002
    if found and (variant or "") not in found:
        options = " or ".join(f"model.variant = {name!r}" for name in sorted(found) if name)
        raise ValueError(f"its weights are of another variant: set {options or 'no model.variant'}")

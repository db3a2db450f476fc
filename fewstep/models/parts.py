"""Load the parts of a diffusers pipeline: networks, tokenizers and noise schedule."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.config import LongPrompts, Quantize
from fewstep.diffusion.prediction import OutputReader, output_reader
from fewstep.diffusion.schedule import NoiseSchedule
from fewstep.models.base import ModelError, fingerprint
from fewstep.models.components import (
    empty_network,
    explained,
    read_network,
    read_scheduler_config,
    read_tokenizer,
)
from fewstep.models.ldm import check_all_read, load_ldm_weights
from fewstep.models.memory import check_loading
from fewstep.models.processor_layers import with_fast_layers
from fewstep.models.quantised import stored

CONVOLUTIONS = torch.channels_last
"""The memory layout that convolutions are fastest in, on processors and on GPUs."""


def load_parts(
    source: str | Path,
    kinds: Mapping[str, type],
    prefixes: Mapping[str, str],
    *,
    base: str | Path,
    checkpoint: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
    quantize: Quantize = "none",
    device: torch.device | str = "cpu",
    revision: str | None = None,
    long_prompts: LongPrompts = "cut",
    **options: Any,
) -> dict[str, Any]:
    """Load a diffusers folder or Hub id; with a `checkpoint` only its configs, and those weights.

    The UNet is in `dtype` or quantised, the others are in fp32. On the meta device no weights are
    read. `base` is what errors call the model, `prefixes` are those of a checkpoint's names;
    options are `variant` and `allow_pickle`.

    Returns a family's fields by their names.

    Raises:
        ModelError: naming the component that is missing or cannot be used.
    """
    networks = {name: empty_network(kind, source, name, revision) for name, kind in kinds.items()}
    if checkpoint is None and torch.device(device).type != "meta":
        numel = sum(w.numel() for network in networks.values() for w in network.parameters())
        check_loading(numel * torch.float32.itemsize, base)
        networks = {
            name: read_network(kind, source, name, revision, **options)
            for name, kind in kinds.items()
        }
    if checkpoint is not None:
        fill(networks, checkpoint, base, prefixes)
    unet, vae = networks.pop("unet"), networks.pop("vae")
    names = {name.replace("text_encoder", "tokenizer"): name for name in networks}
    tokenizers = {
        name: read_tokenizer(source, revision, networks[encoder].config, name)
        for name, encoder in names.items()
    }
    config = read_scheduler_config(source, revision)
    schedule, read = read_schedule(config, base)
    return {
        "fingerprint": fingerprint(unet),  # as it is stored
        "network": with_fast_layers(stored(unet, dtype, quantize)).to(
            device, memory_format=CONVOLUTIONS
        ),
        "vae": stored(vae).to(device, memory_format=CONVOLUTIONS),
        **{name: stored(network).to(device) for name, network in networks.items()},
        **tokenizers,
        "scheduler_config": config,
        "schedule": schedule.to(device),
        "read": read,
        "dtype": dtype,
        "revision": revision,
        "long_prompts": long_prompts,
    }


def fill(
    networks: Mapping[str, Any],
    checkpoint: Mapping[str, Tensor],
    base: str | Path,
    prefixes: Mapping[str, str],
) -> None:
    """Give empty networks a checkpoint's weights, all of which have to be read."""
    for name, network in networks.items():
        with explained(base, name):
            load_ldm_weights(checkpoint, name, network, base, prefixes)
    check_all_read(checkpoint, networks, base, prefixes)


def read_schedule(
    config: Mapping[str, Any], base: str | Path
) -> tuple[NoiseSchedule, OutputReader]:
    """Return the noise levels of a scheduler config, and what reads the network's output.

    Raises:
        ModelError: if the config cannot be used.
    """
    try:
        schedule = NoiseSchedule.from_config(config)
        return schedule, output_reader(config.get("prediction_type", "epsilon"), schedule)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"cannot use the scheduler of {base}: {error}") from error

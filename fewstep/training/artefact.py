"""The artefact of a run: the averaged weights and the contract, as files for other programs."""

# of libraries without types
# pyright: reportArgumentType=false

import importlib.metadata
from pathlib import Path
from typing import Any

from fewstep.config import to_toml
from fewstep.export.artefact import Artefact, name_from
from fewstep.export.public import last_preview, without_own_paths, without_paths
from fewstep.export.write import write_student
from fewstep.files import write_folder
from fewstep.models.adapters import folded
from fewstep.student.contract import Contract
from fewstep.training.networks import lora_alpha
from fewstep.training.setup import Components

LIBRARIES = ("fewstep", "torch", "diffusers", "transformers", "peft", "safetensors", "numpy")
"""Those that decide the numbers."""


def write_artefact(components: Components, kept: int | None = None) -> Path:
    """Write `RUN/artefact`, whole or not at all; return its path.

    Its student is that of step `kept`, by default the last one.
    """
    adapter, network_config = components.config.adapter, None
    if adapter is not None:
        weights = folded(components.roles.averaged, lora_alpha(adapter) / adapter.rank)
    else:
        weights = {name: w.detach().cpu() for name, w in components.roles.averaged.items()}
        network_config = dict(getattr(components.family.network, "config", {}))
    artefact = Artefact(
        name=name_from(components.run),
        contract=without_paths(contract_of(components, kept)),
        weights=weights,
        network_config=network_config,
        preview=last_preview(components.run),
        settings=to_toml(without_own_paths(components.config)),
    )
    write_folder(components.run / "artefact", lambda folder: write_student(folder, artefact))
    return components.run / "artefact"


def contract_of(components: Components, steps: int | None = None) -> Contract:
    """Return the contract of a run's student, by default of its last step."""
    config, family, dataset = components.config, components.family, components.dataset
    quantize = config.model.quantize
    extra = {} if quantize == "none" else {"quantize": quantize}
    extra |= {} if config.train.ema else {"ema": 0.0}
    hub_id = {"hub_id": config.model.hub_id} if config.model.hub_id else {}
    return Contract.of(
        config.method["name"],
        components.method,
        components.guidance_scale,
        family.scheduler_config,
        adapter=_adapter_entry(components),
        base={
            "id": config.model.base,
            "revision": family.revision,
            "variant": config.model.variant,
            "config": config.model.config,
            "fingerprint": family.fingerprint,
            "long_prompts": family.long_prompts,
            **hub_id,
            **({"ldm_blocks": dict(family.ldm_blocks)} if family.ldm_blocks else {}),
        },
        data={
            "path": config.data.path,
            "num_pairs": len(dataset.pairs),
            "resolution": components.resolution,
            "digest": dataset.fingerprint.key,
            "caption_dropout": config.data.caption_dropout,
        },
        train={
            "steps": config.train.steps if steps is None else steps,
            "global_batch": components.global_batch,
            "seed": config.train.seed,
            "precision": config.model.precision,
            **extra,
        },
        versions=versions(),
    )


def _adapter_entry(components: Components) -> dict[str, Any]:
    adapter = components.config.adapter
    if adapter is None:
        return {"preset": "full"}
    return {
        "preset": adapter.preset,
        "rank": adapter.rank,
        "alpha": lora_alpha(adapter),
        "num_modules": len(components.state.trained) // 2,
    }


def versions() -> dict[str, str]:
    """Return the versions of the libraries that decide the numbers."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}

"""What a run promises of its student: the contract, from the parts of the run."""

import importlib.metadata
from typing import Any

from fewstep.config import AdapterSettings
from fewstep.student.contract import Contract
from fewstep.training.setup import Workshop, lora_alpha


def contract_of(shop: Workshop) -> Contract:
    """Write down what the student promises."""
    config, (name, method) = shop.config, shop.named_method
    return Contract.of(
        name,
        method,
        shop.guidance_scale,
        shop.family.scheduler_config,
        adapter=_adapter_entry(config.adapter, len(shop.weights.trained) // 2),
        base={
            "id": config.model.base,
            "revision": shop.family.revision,
            "variant": config.model.variant,
            "config": config.model.config,
            "fingerprint": shop.family.fingerprint,
        },
        data={
            "path": config.data.path,
            "num_pairs": len(shop.pairs),
            "resolution": shop.resolution,
            "digest": shop.dataset.fingerprint.key,
            "caption_dropout": config.data.caption_dropout,
        },
        train={
            "steps": config.train.steps,
            "global_batch": shop.global_batch,
            "seed": config.train.seed,
            "precision": shop.precision,
        },
        versions=versions(),
    )


def _adapter_entry(adapter: AdapterSettings | None, num_modules: int) -> dict[str, Any]:
    if adapter is None:
        return {"preset": "full"}
    return {
        "preset": adapter.preset,
        "rank": adapter.rank,
        "alpha": lora_alpha(adapter),
        "num_modules": num_modules,
    }


def versions() -> dict[str, str]:
    """Return the versions of the libraries that decide the numbers."""
    names = ("fewstep", "torch", "diffusers", "transformers", "peft", "safetensors", "numpy")
    return {name: importlib.metadata.version(name) for name in names}

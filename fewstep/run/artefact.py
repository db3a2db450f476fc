"""The artefact of a run: the averaged weights, and the contract that says how to sample them."""

from pathlib import Path

from safetensors.torch import save

from fewstep.files import write_file, write_folder
from fewstep.publishing.formats import folded, write_diffusers_lora
from fewstep.run.workshop import Workshop, lora_alpha
from fewstep.sampling.contract import CONTRACT_FILE, FULL_FILE


def write_artefact(shop: Workshop) -> Path:
    """Write what is shared of a run into `RUN/artefact`, whole or not at all."""
    folder, adapter = shop.run / "artefact", shop.config.adapter

    def fill(beside: Path) -> None:
        if adapter is not None:
            weights = folded(shop.weights.averaged, lora_alpha(adapter) / adapter.rank)
            write_diffusers_lora(beside, weights)
        else:
            weights = {name: w.detach().cpu() for name, w in shop.weights.averaged.items()}
            write_file(beside / FULL_FILE, save(weights, {"format": "pt"}))
            shop.family.network.save_config(beside / "unet")  # type: ignore[operator]
        write_file(beside / CONTRACT_FILE, shop.contract().to_json())

    write_folder(folder, fill)
    return folder

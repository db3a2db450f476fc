"""The artefact of a run: the averaged weights, the contract, and the files for every reader."""

# of libraries without types
# pyright: reportArgumentType=false

from pathlib import Path

from fewstep.config import to_toml
from fewstep.export.artefact import Artefact, name_from
from fewstep.export.lora_formats import folded
from fewstep.export.public import last_preview, without_own_paths, without_paths
from fewstep.export.write import write_student
from fewstep.files import write_folder
from fewstep.training.contract import contract_of
from fewstep.training.setup import Workshop, lora_alpha


def write_artefact(shop: Workshop) -> Path:
    """Write what is shared of a run into `RUN/artefact`, whole or not at all."""
    adapter, config = shop.config.adapter, None
    if adapter is not None:
        weights = folded(shop.weights.averaged, lora_alpha(adapter) / adapter.rank)
    else:
        weights = {name: w.detach().cpu() for name, w in shop.weights.averaged.items()}
        config = dict(getattr(shop.family.network, "config", {}))
    artefact = Artefact(
        name=name_from(shop.run),
        contract=without_paths(contract_of(shop)),
        weights=weights,
        network_config=config,
        preview=last_preview(shop.run),
        settings=to_toml(without_own_paths(shop.resolved)),
    )
    write_folder(shop.run / "artefact", lambda folder: write_student(folder, artefact))
    return shop.run / "artefact"

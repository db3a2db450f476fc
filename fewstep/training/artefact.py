"""The artefact of a run: the averaged weights, the contract, and the files for every reader."""

# of libraries without types
# pyright: reportArgumentType=false

from dataclasses import replace
from pathlib import Path

from fewstep.config import Config, to_toml
from fewstep.export.card import Card
from fewstep.export.lora_formats import folded
from fewstep.export.names import name_from
from fewstep.export.write import Artefact
from fewstep.files import write_folder
from fewstep.student.contract import Contract
from fewstep.student.locate import on_the_hub, public_name
from fewstep.training.contract import contract_of
from fewstep.training.setup import Workshop, lora_alpha


def write_artefact(shop: Workshop) -> Path:
    """Write what is shared of a run into `RUN/artefact`, whole or not at all."""
    adapter, config = shop.config.adapter, None
    if adapter is not None:
        weights = folded(shop.weights.averaged, lora_alpha(adapter) / adapter.rank)
    else:
        weights = {name: w.detach().cpu() for name, w in shop.weights.averaged.items()}
        config = dict(shop.family.network.config)  # type: ignore[arg-type]
    artefact = Artefact(
        name=name_from(shop.run),
        contract=without_paths(contract_of(shop)),
        weights=weights,
        network_config=config,
        preview=last_preview(shop.run),
        card=Card(settings=to_toml(without_own_paths(shop.resolved))),
    )
    write_folder(shop.run / "artefact", artefact.write)
    return shop.run / "artefact"


def last_preview(run: Path) -> bytes | None:
    """Return the newest image of teacher and student, if any was drawn."""
    drawn = sorted((run / "previews").glob("*.png"))
    return drawn[-1].read_bytes() if drawn else None


def without_paths(contract: Contract) -> Contract:
    """Name the data by its last part alone: a path tells of somebody's machine.

    That of the base stays where it is the only way to find it.
    """
    path, base = contract.data.get("path"), dict(contract.base)
    if base["id"] == "bundled" or on_the_hub(base["id"]):
        base["config"] = None  # of a checkpoint file, which is not this one
    return replace(contract, base=base, data={**contract.data, "path": path and public_name(path)})


def without_own_paths(config: Config) -> Config:
    """Return the settings for others to read: no cache, no prompts of one's own, no paths."""
    model, data = config.model, config.data
    return replace(
        config,
        model=replace(
            model, base=public_name(model.base), config=model.config and public_name(model.config)
        ),
        data=replace(
            data,
            path=public_name(data.path),
            images=data.images and public_name(data.images),
            cache=None,
        ),
        train=replace(config.train, preview_prompts=()),
    )

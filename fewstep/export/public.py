"""What others may read of a run: its last preview, and contract and settings without paths."""

from dataclasses import replace
from pathlib import Path

from fewstep.config import Config
from fewstep.models.hub import on_the_hub
from fewstep.student.contract import Contract
from fewstep.student.load import public_name


def last_preview(run: Path) -> bytes | None:
    """Return the newest image of teacher and student as PNG, if there is one."""
    previews = sorted((run / "previews").glob("*.png"))
    return previews[-1].read_bytes() if previews else None


def without_paths(contract: Contract) -> Contract:
    """Reduce paths of this machine to their last part, but those needed to find the base model."""
    path, base = contract.data.get("path"), dict(contract.base)
    if base["id"] == "bundled" or on_the_hub(base["id"]):
        base["config"] = None  # of a checkpoint file, which is not this one
    return replace(contract, base=base, data={**contract.data, "path": path and public_name(path)})


def without_own_paths(config: Config) -> Config:
    """Return the settings for others to read: without cache, prompts and paths of this machine."""
    model, data, train = config.model, config.data, config.train
    model_config, images = (name and public_name(name) for name in (model.config, data.images))
    return replace(
        config,
        model=replace(
            model, base=model.hub_id or public_name(model.base), hub_id=None, config=model_config
        ),
        data=replace(data, path=public_name(data.path), images=images, cache=None),
        train=replace(train, preview_prompts=(), init=train.init and public_name(train.init)),
    )

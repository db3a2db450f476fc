"""What others may read of a run: its last preview, and contract and settings without paths."""

from dataclasses import replace
from pathlib import Path

from fewstep.config import Config
from fewstep.student.contract import Contract
from fewstep.student.locate import on_the_hub, public_name


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

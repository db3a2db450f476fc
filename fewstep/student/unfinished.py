"""The student of a run that is not finished: its last checkpoint, and the contract beside it."""

from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fewstep.models.adapters import folded
from fewstep.student.contract import Contract
from fewstep.student.load import ArtefactError, read_artefact, read_contract

RUN_CONTRACT = "contract.json"
"""The contract of the student that a run trains, in the run's folder."""


def is_unfinished(source: str | Path) -> bool:
    """Return whether a source is a run that has no artefact yet."""
    run = Path(source)
    return (run / "config.toml").is_file() and not (run / "artefact").is_dir()


def saved_checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints in a run's folder of checkpoints, oldest first."""
    return sorted(p for p in folder.glob("[0-9]*") if (p / "state.json").is_file())


def read_student(
    source: str | Path, revision: str | None = None
) -> tuple[Contract, dict[str, Tensor]]:
    """Read an artefact, or of an unfinished run the last checkpoint, as the contract then says.

    Raises:
        ArtefactError: if it cannot be used, or a run has no checkpoint yet.
    """
    return (
        read_checkpoint(Path(source)) if is_unfinished(source) else read_artefact(source, revision)
    )


def read_checkpoint(run: Path, step: int | None = None) -> tuple[Contract, dict[str, Tensor]]:
    """Read the student's weights of a run's last checkpoint, a LoRA folded, and the contract.

    Of an older one with `step`. The contract's `train` has the `steps` that were done, and those
    planned as `planned_steps`.

    Raises:
        ArtefactError: if there is no checkpoint, or a file is missing or damaged.
    """
    checkpoints = saved_checkpoints(run / "checkpoints")
    if not checkpoints or not (run / RUN_CONTRACT).is_file():
        lacks = RUN_CONTRACT if checkpoints else "checkpoint"
        raise ArtefactError(
            f"{run} is not trained to its end and has no {lacks} yet; run its fewstep distill again"
        )
    last = checkpoints[-1] if step is None else run / "checkpoints" / f"{step:08d}"
    contract = read_contract(run, RUN_CONTRACT)
    try:
        group = "trained" if contract.train.get("ema") == 0 else "averaged"
        weights = load_file(last / f"{group}.safetensors")
    except (OSError, SafetensorError) as error:
        raise ArtefactError(
            f"the checkpoint {last} is damaged ({error}); delete this folder to take the one before"
        ) from error
    if (adapter := contract.adapter)["preset"] != "full":
        weights = folded(weights, adapter["alpha"] / adapter["rank"])
    train = {**contract.train, "steps": int(last.name), "planned_steps": contract.train["steps"]}
    return replace(contract, train=train), dict(weights)

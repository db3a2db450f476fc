"""What a file of an artefact has to be before it is read: there, inside, unchanged, no pickle."""

import json
from pathlib import Path, PurePosixPath

from fewstep.errors import UserError
from fewstep.files import sha256_of
from fewstep.student.contract import CONTRACT_FILE, SCHEDULER_FILE, Contract
from fewstep.student.other_programs import scheduler_config

PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth", "unet/*.bin")

HARMLESS = ("_diffusers_version", "steps_offset")
"""Entries of a scheduler config that the schedulers of artefacts make nothing of."""


class ArtefactError(UserError):
    """An artefact that cannot be used; the message says what is wrong with it."""


def missing(folder: Path, name: str) -> ArtefactError:
    """Return the error for a file that is not there."""
    pickles = sorted(p.name for pattern in PICKLES for p in folder.glob(pattern))
    if pickles and name != CONTRACT_FILE:
        return ArtefactError(
            f"{folder} has its weights in {pickles[0]}, which is pickled: reading it may run code "
            f"that somebody put there. Get them as safetensors ({name})"
        )
    return ArtefactError(
        f"{folder} is no whole artefact: {name} is missing; give a finished run, or export it again"
    )


def check_inside(folder: Path, name: str) -> None:
    """Refuse a file whose name, or whose link, leads out of the artefact's folder.

    What the Hub's cache keeps is linked: from `models--REPO/snapshots/COMMIT` to its `blobs`.
    """
    path, above = PurePosixPath(name), folder.parent
    in_cache = above.name == "snapshots" and above.parent.name.startswith("models--")
    home = above.parent if in_cache else folder
    leads_out = path.is_absolute() or ".." in path.parts or "\\" in name
    if leads_out or not (folder / path).resolve().is_relative_to(home.resolve()):
        raise ArtefactError(
            f"{folder / CONTRACT_FILE} names {name!r}, which lies outside of the artefact's "
            "folder; do not use it unless you know who made it, and then export the run again"
        )


def checked(folder: Path, name: str, contract: Contract) -> Path:
    """Return the path of a file that is there, and is the one that the contract tells of."""
    check_inside(folder, name)
    path = folder / name
    if not path.is_file():
        raise missing(folder, name)
    told = contract.files.get(name)
    if told is not None and told != sha256_of(path):
        raise ArtefactError(
            f"{path} is not the file that {CONTRACT_FILE} was written for (its sha256 differs): "
            "one of them was changed or damaged; get the artefact again, or export the run again"
        )
    return path


def check_files(folder: Path, contract: Contract) -> None:
    """Refuse a folder in which a file is not the one that the contract tells of; some may lack."""
    for name in contract.files:
        check_inside(folder, name)
        if (folder / name).exists():
            checked(folder, name, contract)


def check_scheduler(folder: Path, contract: Contract) -> None:
    """Refuse a scheduler config that would sample the student wrongly in other programs."""
    path = folder / SCHEDULER_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        entries = {k: v for k, v in config.items() if k not in HARMLESS}
    except FileNotFoundError as error:
        raise missing(folder, SCHEDULER_FILE) from error
    except (OSError, ValueError, AttributeError) as error:
        raise ArtefactError(f"cannot read {path}: {error}; export the run again") from error
    wanted = {k: v for k, v in scheduler_config(contract).items() if k not in HARMLESS}
    for name in sorted(entries.keys() | wanted.keys()):
        if entries.get(name) != wanted.get(name):
            raise ArtefactError(
                f"{path} has {name} = {entries.get(name)!r}, where this student needs "
                f"{wanted.get(name)!r} to be sampled rightly; export the run again"
            )

"""Loading an artefact: its folder, its contract, its weights after their checks."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fewstep.console import next_command
from fewstep.errors import UserError
from fewstep.files import sha256_of
from fewstep.models.adapters import lora_modules
from fewstep.models.base import ModelError
from fewstep.models.hub import hub_file, hub_folder, no_such_path, on_the_hub
from fewstep.models.safe_files import PICKLED, SAFE
from fewstep.models.tiny_decoder import MAKE, TINY_FOLDER
from fewstep.student.contract import (
    CONTRACT_FILE,
    FULL_FILE,
    LORA_FILE,
    OPENVINO_FILE,
    OPENVINO_FOLDER,
    SCHEDULER_FILE,
    Contract,
)
from fewstep.student.other_programs import scheduler_config

REQUIRED = (("base", "id", str), ("base", "fingerprint", str), ("data", "resolution", int))
"""The entries of a contract that generating needs."""

WITHOUT_EFFECT = {"_diffusers_version", "steps_offset"}
"""Entries of a scheduler config that the schedulers of artefacts ignore."""

WEIGHTS = (
    LORA_FILE,
    SCHEDULER_FILE,
    *(f"{part}/*.{kind}" for part in ("unet", TINY_FOLDER) for kind in (SAFE[1:], "json")),
)
"""What is downloaded of an artefact beside its contract."""


TINY = "tiny"
"""What `--decoder` calls the decoder in a run's or artefact's own folder."""


class ArtefactError(UserError):
    """An artefact that cannot be used; the message says why."""


def public_name(name: str) -> str:
    """Return a Hub id or a word as it is, and only the last part of a path, which is private.

    >>> public_name("bundled"), public_name("me/model"), public_name("/disk/me/model.ckpt")
    ('bundled', 'me/model', 'model.ckpt')
    """
    return name if on_the_hub(name) else Path(name).name


def is_artefact(source: str | Path) -> bool:
    """Return whether a source is an artefact, or a run that holds one, and not a plain model."""
    folder = Path(source)
    if folder.exists():
        return any((folder / part / CONTRACT_FILE).is_file() for part in ("", "artefact"))
    try:
        return on_the_hub(str(source)) and hub_file(str(source), CONTRACT_FILE).is_file()
    except (OSError, ValueError):  # not there, or offline and never downloaded
        return False


def artefact_folder(
    source: str | Path, revision: str | None = None, files: Sequence[str] = WEIGHTS
) -> Path:
    """Return the folder of an artefact: of a run that holds one, or with `files` from the Hub.

    Raises:
        ArtefactError: if it is a file, or neither a folder nor on the Hub.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder / "artefact" if (folder / "artefact").is_dir() else folder
    if folder.is_file():
        raise ArtefactError(
            f"{source} is a file, which has no timesteps: name the run, or the exported folder"
        )
    if not on_the_hub(str(source)):
        raise ArtefactError(no_such_path(str(source)))
    try:
        return hub_folder(str(source), [CONTRACT_FILE, *files], revision)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ArtefactError(
            f"{source} is no folder and cannot be downloaded from the Hub ({reason}); check the "
            "name, the network, and for a private one the login (hf auth login)"
        ) from error


def decoder_folder(
    decoder: str | Path, source: str | Path | None = None, revision: str | None = None
) -> Path:
    """Return the folder of a small decoder: "tiny" is that of a student's run or artefact.

    Raises:
        ArtefactError: if there is none, with the command that makes it.
    """
    if str(decoder) != TINY:
        if Path(decoder).is_dir():
            return Path(decoder).absolute()
        raise ArtefactError(f"there is no decoder {decoder}: name a folder; {MAKE}")
    if source is None:
        raise ArtefactError(f"a plain model has no decoder of its own: name a folder; {MAKE}")
    if found := own_decoder(source, revision):
        return found.absolute()
    make, config = f"{MAKE}, and fewstep export RUN -o OUT takes it along", "config.toml"
    if (Path(source) / config).is_file():
        make = next_command("distill-decoder", Path(source) / config, "--run", source)
    raise ArtefactError(f"{source} has no {TINY_FOLDER}; {make}")


def own_decoder(source: str | Path, revision: str | None = None) -> Path | None:
    """Return the folder of the small decoder in a student's run or artefact, if there is one."""
    folders = (Path(source), artefact_folder(source, revision))
    return next((f / TINY_FOLDER for f in folders if (f / TINY_FOLDER).is_dir()), None)


def read_contract(folder: Path, name: str = CONTRACT_FILE) -> Contract:
    """Read and check the contract of an artefact folder.

    Raises:
        ArtefactError: if it is missing or damaged, contradicts itself, or names no base model.
    """
    path = folder / name
    try:
        contract = Contract.from_json(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError as error:
        raise _missing(folder, name) from error
    except UnicodeDecodeError as error:
        raise ArtefactError(
            f"{path} is not UTF-8 ({error.reason}); get the artefact again"
        ) from error
    except (OSError, ValueError) as error:
        raise ArtefactError(f"cannot read the artefact {folder}: {error}") from error
    for part, entry, kind in REQUIRED:
        value = getattr(contract, part).get(entry)
        if type(value) is not kind or not value or (isinstance(value, int) and value < 0):
            raise ArtefactError(
                f"{path} has {part}.{entry} = {value!r}, with which nothing can be generated; "
                "get the artefact again"
            )
    return contract


def read_artefact(
    source: str | Path, revision: str | None = None
) -> tuple[Contract, dict[str, Tensor]]:
    """Read the contract and the weights: a folded LoRA by PEFT's plain names, or a whole network.

    Raises:
        ArtefactError: if a file is missing, damaged, pickled, outside the folder, or another than
            the one that the contract was written for.
    """
    folder = artefact_folder(source, revision)
    contract = read_contract(folder)
    is_full = contract.adapter.get("preset") == "full"
    if OPENVINO_FILE in contract.files:
        raise ArtefactError(
            f"{folder} is for OpenVINO: sample it with --backend openvino, and take the artefact "
            "that it is in for everything else"
        )
    for name in contract.files:
        _check_inside(folder, name)
    path = checked(folder, FULL_FILE if is_full else LORA_FILE, contract)
    if SCHEDULER_FILE in contract.files or (folder / SCHEDULER_FILE).exists():
        _check_scheduler(folder, contract)
    try:
        weights = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtefactError(
            f"{path} is no whole safetensors file ({error}); get the artefact again, or export "
            "the run again"
        ) from error
    weights = {name.removeprefix("unet."): value for name, value in weights.items()}
    if not is_full:
        _check_lora(path, weights, contract)
    return contract, weights


def read_converted(source: str | Path, revision: str | None = None) -> tuple[Path, Contract]:
    """Return the folder of an artefact's files for OpenVINO, which are checked, and the contract.

    Raises:
        ArtefactError: if it has none, or one is missing, damaged or outside the folder.
    """
    folder = artefact_folder(source, revision, [f"{OPENVINO_FOLDER}*"])
    contract = read_contract(folder)
    part = "" if OPENVINO_FILE in contract.files else OPENVINO_FOLDER
    if part + OPENVINO_FILE not in contract.files:
        raise ArtefactError(
            f"{source} has no files for OpenVINO: fewstep export it with --openvino, and sample "
            "that folder"
        )
    for name in contract.files:
        if name.startswith(part):
            checked(folder, name, contract)
    return folder / part, contract


def checked(folder: Path, name: str, contract: Contract) -> Path:
    """Return the path of a file that is in the folder with the checksum that the contract has.

    Raises:
        ArtefactError: if it is missing, outside the folder or another file.
    """
    _check_inside(folder, name)
    path = folder / name
    if not path.is_file():
        raise _missing(folder, name)
    if contract.files.get(name) not in (None, sha256_of(path)):
        raise ArtefactError(
            f"{path} is not the file that {CONTRACT_FILE} was written for (its sha256 differs): "
            "one of them was changed or damaged; get the artefact again, or export the run again"
        )
    return path


def check_files(folder: Path, contract: Contract) -> None:
    """Check every file of the contract that is in the folder; some may be missing."""
    for name in contract.files:
        _check_inside(folder, name)
        if (folder / name).exists():
            checked(folder, name, contract)


def _check_inside(folder: Path, name: str) -> None:
    """Refuse a file whose name, or whose link, leads out of the artefact's folder.

    The Hub's cache has links from `models--REPO/snapshots/COMMIT` to `models--REPO/blobs`.
    """
    path, above = PurePosixPath(name), folder.parent
    in_cache = above.name == "snapshots" and above.parent.name.startswith("models--")
    root = above.parent if in_cache else folder
    is_named_outside = path.is_absolute() or ".." in path.parts or "\\" in name
    if is_named_outside or not (folder / path).resolve().is_relative_to(root.resolve()):
        raise ArtefactError(
            f"{folder / CONTRACT_FILE} names {name!r}, which lies outside of the artefact's "
            "folder; do not use it unless you know who made it, and then export the run again"
        )


def _missing(folder: Path, name: str) -> ArtefactError:
    """Return the error for a file that is not there."""
    if name == CONTRACT_FILE and (folder / "config.toml").is_file():
        return ArtefactError(
            f"{folder} is a run that is not trained to its end: run its fewstep distill again, "
            "which goes on from its last checkpoint; fewstep sample shows how far it is"
        )
    if name == CONTRACT_FILE and (folder / "model_index.json").is_file():
        return ArtefactError(f"{folder} is a model and no student: give a run, or an artefact")
    files = [*folder.glob("*"), *folder.glob("unet/*")]
    pickles = sorted(path.name for path in files if path.suffix in PICKLED)
    if pickles and name != CONTRACT_FILE:
        return ArtefactError(
            f"{folder} has its weights in {pickles[0]}, which is pickled: reading it may run "
            f"somebody's code. Get them as safetensors ({name})"
        )
    return ArtefactError(
        f"{folder} is incomplete: {name} is missing; give a finished run, or export it again"
    )


def _check_scheduler(folder: Path, contract: Contract) -> None:
    """Refuse a scheduler config with which other programs would sample the student wrongly."""
    path = folder / SCHEDULER_FILE
    if not path.is_file():
        raise _missing(folder, SCHEDULER_FILE)
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ArtefactError(f"cannot read {path}: {error}; export the run again") from error
    needed = scheduler_config(contract)
    for name in sorted({*found, *needed} - WITHOUT_EFFECT):
        if found.get(name) != needed.get(name):
            raise ArtefactError(
                f"{path} has {name} = {found.get(name)!r}, where this student needs "
                f"{needed.get(name)!r} to be sampled correctly; export the run again"
            )


def _check_lora(path: Path, weights: Mapping[str, Tensor], contract: Contract) -> None:
    """Refuse a LoRA that is not the whole one that was trained."""
    try:
        found = len(lora_modules(weights))
    except ModelError as error:
        raise ArtefactError(f"{path}: {error}; export the run again") from error
    trained = contract.adapter.get("num_modules", found)
    if found != trained:
        raise ArtefactError(
            f"{path} changes {found} modules, and {trained} were trained; export the run again"
        )

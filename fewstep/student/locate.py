"""Where an artefact lies: in a folder, in a run, or on the Hub."""

import re
from pathlib import Path

from fewstep.models.single_file import PICKLED
from fewstep.student.contract import CONTRACT_FILE, LORA_FILE, SCHEDULER_FILE
from fewstep.student.integrity import ArtefactError

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
CHECKPOINTS = (".safetensors", *PICKLED)


def on_the_hub(name: str) -> bool:
    """Return whether a name is a Hub id, and no path on this machine.

    >>> on_the_hub("me/model"), on_the_hub("checkpoints/model.safetensors")
    (True, False)
    """
    is_path = name.endswith(CHECKPOINTS) or Path(name).exists()
    return bool(HUB_ID.fullmatch(name)) and not is_path


def public_name(name: str) -> str:
    """Return a Hub id or a word as it is, and of a path, which tells of a machine, the last part.

    >>> public_name("bundled"), public_name("me/model"), public_name("/disk/me/model.ckpt")
    ('bundled', 'me/model', 'model.ckpt')
    """
    return name if on_the_hub(name) else Path(name).name


def is_artefact(source: str | Path) -> bool:
    """Return whether a source is an artefact, or a run that holds one, and not a plain model."""
    folder = Path(source)
    if folder.exists():
        return any((folder / part / CONTRACT_FILE).is_file() for part in ("", "artefact"))
    if not on_the_hub(str(source)):
        return False
    from huggingface_hub import hf_hub_download

    try:
        return bool(hf_hub_download(str(source), CONTRACT_FILE))
    except (OSError, ValueError):  # not there, or offline and never downloaded
        return False


def open_folder(source: str | Path, revision: str | None = None) -> Path:
    """Return the folder of an artefact: of a run that holds one, or downloaded from the Hub.

    Raises:
        ArtefactError: if it is a file, or there is no such folder and nothing of that name on the
            Hub.
    """
    folder = Path(source)
    if (folder / "artefact").is_dir():
        return folder / "artefact"
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise ArtefactError(
            f"{source} is a file, and says nothing of timesteps: name the run, or the folder that "
            "fewstep export wrote it into"
        )
    if not on_the_hub(str(source)):
        raise ArtefactError(f"{source} is neither a folder nor a Hub id such as name/model")
    from huggingface_hub import snapshot_download

    wanted = [CONTRACT_FILE, LORA_FILE, SCHEDULER_FILE, "unet/*.safetensors", "unet/*.json"]
    try:
        return Path(snapshot_download(str(source), revision=revision, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ArtefactError(
            f"{source} is no folder, and the Hub did not give it ({reason}); check the name, the "
            "network, and for a private one the login (hf auth login)"
        ) from error

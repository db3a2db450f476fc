"""The Hub: which names are of it, whether it can be asked, and files from it or from its cache."""

import functools
import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.utils import LocalEntryNotFoundError

from fewstep.config import HUB_ID
from fewstep.models.architectures import known_architecture
from fewstep.models.safe_files import PICKLED, SAFE

RUNS = "runs"
"""The folder that this package's commands put runs into by default, which is nobody's name."""

SECONDS = 5.0
"""How long an answer of the Hub's server is awaited before it counts as out of reach."""


def on_the_hub(name: str) -> bool:
    """Return whether a name is a Hub id, and no path on this machine.

    A name whose first part is a folder here is a path, but for ids of well-known models.

    >>> on_the_hub("me/model"), on_the_hub("checkpoints/model.safetensors"), on_the_hub("runs/b")
    (True, False, False)
    """
    first = Path(name).parts[:1]
    is_path = (
        name.endswith((SAFE, *PICKLED))
        or Path(name).exists()
        or first == (RUNS,)
        or (Path(*first).is_dir() and known_architecture(name) is None)
    )
    return bool(re.fullmatch(HUB_ID, name)) and not is_path


def no_such_path(name: str) -> str:
    """Return why a name that is no Hub id and not here cannot be found."""
    first = Path(name).parts[0] if Path(name).parts else "."
    reason = f"there is no file or folder {name}"
    if re.fullmatch(HUB_ID, name):
        return f"{reason}; it is not looked for on the Hub, since {first} is a folder's name here"
    return f"{reason}, and it is no Hub id such as name/model"


def out_of_reach() -> str | None:
    """Return why the Hub cannot be asked, or None; at once, where its library tries for long."""
    if constants.HF_HUB_OFFLINE:
        return "the Hub is not asked, as HF_HUB_OFFLINE says"
    return _unreachable(constants.ENDPOINT)


@functools.cache
def _unreachable(endpoint: str) -> str | None:
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return None  # a proxy knows names that this machine does not
    url = urlsplit(endpoint)
    place = (url.hostname or "", url.port or (80 if url.scheme == "http" else 443))
    try:
        socket.create_connection(place, SECONDS).close()
    except OSError as error:
        return f"{url.hostname} cannot be reached: {error.strerror or error}"
    return None


def hub_file(repo: str, name: str, revision: str | None = None) -> Path:
    """Return a file of a repository, as it is in the cache where the Hub is out of reach.

    Raises:
        OSError, ValueError: if it is not there; the message says which of both.
    """
    reason = out_of_reach()
    try:
        return Path(hf_hub_download(repo, name, revision=revision, local_files_only=bool(reason)))
    except LocalEntryNotFoundError as error:
        raise _not_here(repo, reason) from error


def hub_folder(repo: str, names: Sequence[str], revision: str | None = None) -> Path:
    """Return a folder with those files of a repository, as `hub_file` does."""
    reason = out_of_reach()
    try:
        return Path(
            snapshot_download(
                repo, revision=revision, allow_patterns=list(names), local_files_only=bool(reason)
            )
        )
    except LocalEntryNotFoundError as error:
        raise _not_here(repo, reason) from error


def _not_here(repo: str, reason: str | None) -> FileNotFoundError:
    why = reason or "the Hub did not answer"
    return FileNotFoundError(f"{why}, and {repo} was not downloaded before")

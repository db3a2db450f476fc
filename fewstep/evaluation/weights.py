"""Judges' weights that are not shipped: where they are looked for, and how to get them."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from fewstep.errors import UserError


class WeightsMissing(UserError):
    """Weights that are nowhere; the message names the file and how to get it."""


@dataclass(frozen=True)
class Weights:
    """A file or folder in the folder of weights, or a model in the Hub's cache.

    `sha256` is the beginning of the file's digest.
    """

    name: str
    get: str
    sha256: str = ""
    repo: str = ""

    def find(self, folder: Path | None = None) -> Path:
        """Return where the weights are; nothing is downloaded.

        Raises:
            WeightsMissing: if they are neither in the folder nor in the Hub's cache.
            UserError: if the file is another one than its name says.
        """
        folder = folder or weights_folder()
        path = folder / self.name
        if path.exists():
            self.check(path)
            return path
        if self.repo and (cached := in_hub_cache(self.repo)):
            return cached
        raise WeightsMissing(f"needs {self.name} in {folder}: {self.get}")

    def check(self, path: Path) -> None:
        """Refuse a file whose digest is not the known one."""
        if not self.sha256:
            return
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if not found.startswith(self.sha256):
            raise UserError(
                f"{path} is damaged or another file: its sha256 begins with "
                f"{found[: len(self.sha256)]} and not with {self.sha256}; {self.get}"
            )


def weights_folder() -> Path:
    """Return the folder that FEWSTEP_WEIGHTS names, else the one in the user's cache."""
    return Path(os.environ.get("FEWSTEP_WEIGHTS", "~/.cache/fewstep/weights")).expanduser()


def in_hub_cache(repo: str) -> Path | None:
    """Return the folder of a model that was downloaded before, without asking the Hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


INCEPTION = Weights(
    "pt_inception-2015-12-05-6726825d.pth",
    "download it from https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth",
    sha256="6726825d",
)


def clip(name: str) -> Weights:
    """Return where one of OpenAI's CLIP models is looked for."""
    repo = f"openai/{name}"
    return Weights(name, f"hf download {repo} --local-dir THAT_FOLDER/{name}", repo=repo)

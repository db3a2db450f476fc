"""Feature extractors' weights that are not shipped: where they are looked for, how to get them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from fewstep.errors import UserError
from fewstep.files import sha256_of

LOADED = ("model.safetensors", "pytorch_model.bin")
"""What transformers loads of a folder, the first that is there."""


class WeightsMissing(UserError):
    """Weights that are nowhere; the message names the file and how to get it."""


@dataclass(frozen=True)
class Weights:
    """A file or folder in the folder of weights, or a model in the Hub's cache.

    `hint` says how to get it; `sha256` holds the beginnings of the known files' digests by name.
    """

    name: str
    hint: str
    sha256: Mapping[str, str] = field(default_factory=dict)
    repo: str = ""

    def find(self, folder: Path | None = None) -> Path:
        """Return where the weights are; nothing is downloaded.

        Raises:
            WeightsMissing: if they are neither in the folder nor in the Hub's cache, or not whole.
            UserError: if a file has another digest than its name says, or is not known.
        """
        folder = folder or weights_folder()
        path = folder / self.name
        if not path.exists():
            path = in_hub_cache(self.repo) if self.repo else None
        if path is None:
            raise WeightsMissing(f"needs {self.name} in {folder}: {self.hint}")
        self.check(path)
        return path

    def check(self, path: Path) -> None:
        """Refuse a file whose digest is not the known one, and a folder without any known file."""
        if not self.sha256:
            return
        files = {path / name if path.is_dir() else path: sha for name, sha in self.sha256.items()}
        if not any(file.is_file() for file in files):
            raise WeightsMissing(f"{path} holds no {' and no '.join(self.sha256)}; {self.hint}")
        for name in LOADED:
            if (path / name).is_file() and name not in self.sha256:
                raise UserError(f"{path / name} is no known file of weights; remove it")
        for file, known in files.items():
            found = file_checksum(file, file.stat().st_mtime_ns) if file.is_file() else known
            if not found.startswith(known):
                raise UserError(
                    f"{file} is damaged or another file: its sha256 begins with "
                    f"{found[: len(known)]} and not with {known}; {self.hint}"
                )


@cache
def file_checksum(file: Path, changed: int) -> str:
    """Return a file's sha256, computed once for each time at which it was `changed`."""
    return sha256_of(file)


def weights_folder() -> Path:
    """Return the folder that FEWSTEP_WEIGHTS names, else the one in the user's cache."""
    return Path(os.environ.get("FEWSTEP_WEIGHTS", "~/.cache/fewstep/weights")).expanduser()


def in_hub_cache(repo: str) -> Path | None:
    """Return the folder of a model that was downloaded before, without a request to the Hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


INCEPTION = Weights(
    "pt_inception-2015-12-05-6726825d.pth",
    "download it from https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth",
    {"pt_inception-2015-12-05-6726825d.pth": "6726825d"},
)
CLIP_SHA256 = {
    "clip-vit-large-patch14": {
        "model.safetensors": "a2bf730a0c7debf1",
        "pytorch_model.bin": "f1a17cdbe0f36fec",
    },
    "clip-vit-large-patch14-336": {"pytorch_model.bin": "c6032c2e0caae3dc"},
}


def clip(name: str) -> Weights:
    """Return the weights of one of OpenAI's CLIP models."""
    repo = f"openai/{name}"
    hint = f"hf download {repo} --local-dir THAT_FOLDER/{name}"
    return Weights(name, hint, CLIP_SHA256.get(name, {}), repo)

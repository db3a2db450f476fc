"""`fewstep push`: which files are uploaded, the checks before, and the upload itself."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import HfApi, ModelCard, get_token, hf_hub_download
from huggingface_hub.utils import HfHubHTTPError, HFValidationError, validate_repo_id

from fewstep.errors import UserError
from fewstep.export.artefact import CARD_FILE, FUSED
from fewstep.models.hub import on_the_hub
from fewstep.student.contract import CONTRACT_FILE, Contract
from fewstep.student.load import artefact_folder, checked, read_artefact, read_contract

HTTP_ERRORS = (*HfHubHTTPError.__bases__, OSError)
"""What the Hub's client raises, with requests as with httpx."""


def push_artefact(
    source: str,
    repo: str,
    *,
    public: bool = False,
    fused: bool = False,
    dry_run: bool = False,
    echo: Callable[[str], None] = print,
) -> str:
    """List the files and their sizes with `echo`, upload them and return what was done."""
    check_repo(repo)
    manifest = upload_manifest(source, fused)
    echo(manifest.listing())
    if dry_run:
        return f"dry run: nothing was uploaded to {repo}"
    return f"uploaded to {upload(manifest, repo, public)} ({'public' if public else 'private'})"


class UploadManifest(NamedTuple):
    """The files of an artefact's folder that are uploaded, by their paths below it."""

    folder: Path
    files: tuple[str, ...]

    def listing(self) -> str:
        """Return the files with their sizes, one a line, and the sum."""
        sizes = {name: (self.folder / name).stat().st_size for name in self.files}
        sizes[f"in {len(sizes)} files"] = sum(sizes.values())
        return "\n".join(f"{size / 1e6:10.3f} MB  {name}" for name, size in sizes.items())


def upload_manifest(source: str | Path, fused: bool = False) -> UploadManifest:
    """Choose the contract, its files and the card; the whole models only with `fused`.

    Raises:
        UserError: if a file is missing or damaged, the base model is one that others do not
            have, or the card names no license.
    """
    folder = artefact_folder(source)
    contract, _ = read_artefact(folder)
    if not contract.files:
        raise UserError(f"{folder} is of an older fewstep; fewstep export it first")
    license_ = ModelCard.load(checked(folder, CARD_FILE, contract)).data.license
    if hub_id := contract.base.get("hub_id"):
        raise UserError(f"{folder} is a run's own: fewstep export it, and push that for {hub_id}")
    if lacking := missing_options(contract, license_):
        raise UserError(f"{folder} cannot be pushed as it is: export it again with {lacking}")
    if fused and not any(name.startswith(FUSED) for name in contract.files):
        raise UserError(
            f"{folder} has no {FUSED}; export with --fused, --checkpoint or --openvino first"
        )
    names = [name for name in contract.files if fused or not name.startswith(FUSED)]
    names += [CONTRACT_FILE, CARD_FILE]
    for name in names:
        checked(folder, name, contract)
    return UploadManifest(folder, tuple(sorted(names)))


def missing_options(contract: Contract, license_: str | None) -> str:
    """Return the options that an export lacks before others can use it; "" if none."""
    base, lacking = contract.base["id"], []
    if base != "bundled" and not on_the_hub(base):
        lacking.append(
            f"--base OWNER/NAME, the Hub id of its base model ({base!r} is a place on this "
            "machine; model.hub_id in a config sets it for good)"
        )
    if not license_:
        lacking.append(
            "--license ID, such as creativeml-openrail-m: a student inherits that of its base "
            "model, whose card is not known here"
        )
    return ", and ".join(lacking)


def check_repo(repo: str) -> None:
    """Refuse a REPO that is not a repository's name, you/name.

    Raises:
        UserError: with the form of such a name.
    """
    with suppress(HFValidationError):
        validate_repo_id(repo)
        if repo.count("/") == 1:
            return
    raise UserError(f"REPO is {repo!r}; it has to be you/name, of letters, digits and - _ . alone")


def upload(manifest: UploadManifest, repo: str, public: bool = False) -> str:
    """Upload to the model repository `repo`, made private unless `public`; return its address.

    Files of an artefact that is there already, by its contract, and not in this one are deleted.
    The token is that of the login or of HF_TOKEN.

    Raises:
        UserError: if there is no token, the Hub refuses, or `repo` is public without `public`.
    """
    if not get_token():
        raise UserError("no token for the Hub: log in with hf auth login, or set HF_TOKEN")
    api = HfApi()
    try:
        address = api.create_repo(repo, private=not public, exist_ok=True)
        if not public and not api.model_info(repo).private:
            raise UserError(f"{repo} exists and is public; use --public, or choose another name")
        api.upload_folder(
            repo_id=repo,
            folder_path=manifest.folder,
            allow_patterns=list(manifest.files),
            delete_patterns=_obsolete_files(manifest, repo),
            commit_message="Upload by fewstep push",
        )
    except HTTP_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        hint = "check the name, the token's rights and the network"
        raise UserError(f"the Hub did not take {repo} ({reason}); {hint}") from error
    return str(address)


def _obsolete_files(manifest: UploadManifest, repo: str) -> list[str] | None:
    """Return the files of the artefact in `repo` that the manifest does not have."""
    try:
        contract = read_contract(Path(hf_hub_download(repo, CONTRACT_FILE)).parent)
    except (OSError, ValueError):  # there is none
        return None
    return sorted(contract.files.keys() - set(manifest.files)) or None

"""What is uploaded is the artefact alone, for nobody else to see, and loads from there."""

import re
from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from huggingface_hub import _snapshot_download, constants, file_download, hf_api
from huggingface_hub.utils import _http

from fewstep.errors import UserError
from fewstep.export.artefact import PEFT_FILE
from fewstep.export.export import ExportOptions, export_artefact
from fewstep.export.hub import push_artefact, upload, upload_manifest
from fewstep.export.write import write_student
from fewstep.models.adapters import merge_lora
from fewstep.student.contract import CONTRACT_FILE, LORA_FILE
from fewstep.student.load import ArtefactError, is_artefact, read_artefact, read_contract
from tests.artefacts import copy_of, tiny_artefact, tiny_contract, tiny_family, tiny_student
from tests.export.fake_hub import TOKEN, fake_hub
from tests.tiny import tiny_pipeline

REPO = "me/tiny-student"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on loopback in the place of the real one, and somebody who is logged in."""
    with fake_hub() as hub:
        settings = {
            "ENDPOINT": hub.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint
            + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_OFFLINE": False,
        }
        for name, value in settings.items():
            for module in (constants, hf_api, file_download, _snapshot_download):
                if hasattr(module, name):  # older versions keep copies
                    monkeypatch.setattr(module, name, value)
        getattr(_http, "reset_sessions", bool)()  # and one session, offline if its first user was
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def artefact(tmp_path):
    return tiny_artefact(tmp_path / "artefact", base="me/tiny-model")


def push(artefact, repo=REPO, fused=False, dry_run=False):
    """Return the list of files and the final message."""
    listed = []
    done = push_artefact(str(artefact), repo, fused=fused, dry_run=dry_run, echo=listed.append)
    return "\n".join(listed), done


def test_the_files_of_the_artefact_and_no_others_arrive(hub, artefact):
    (artefact / "notes.txt").write_text("mine")
    (artefact / "checkpoints").mkdir()
    (artefact / "checkpoints" / "trained.safetensors").write_bytes(b"large")
    listing, done = push(artefact)
    there = hub.repos[REPO]
    assert there["private"]
    expected = {p.relative_to(artefact).as_posix() for p in artefact.rglob("*") if p.is_file()}
    assert there["files"].keys() == expected - {"notes.txt", "checkpoints/trained.safetensors"}
    assert all((artefact / name).read_bytes() == there["files"][name] for name in there["files"])
    assert all(name in listing for name in there["files"])
    assert done == f"uploaded to {hub.endpoint}/{REPO} (private)"


def test_a_dry_run_lists_files_and_sizes_and_connects_to_nothing(hub, artefact, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    listing, done = push(artefact, dry_run=True)
    size = (artefact / LORA_FILE).stat().st_size
    assert re.search(rf"{size / 1e6:.3f} MB  {LORA_FILE}", listing)
    assert "nothing was uploaded" in done
    assert not hub.repos


def test_the_list_is_printed_before_anything_is_sent(hub, artefact):
    def look(listing):
        assert LORA_FILE in listing
        assert not hub.repos

    push_artefact(str(artefact), REPO, echo=look)
    assert hub.repos


@pytest.mark.parametrize("repo", ["a b", "a/b/c", "", "me/x.git", "noslash", "me/", "-/--"])
@pytest.mark.parametrize("dry_run", [True, False])
def test_what_is_no_name_of_a_repository_is_refused(hub, artefact, repo, dry_run):
    with pytest.raises(UserError, match=re.escape(f"REPO is {repo!r}; it has to be you/name")):
        push(artefact, repo, dry_run=dry_run)
    assert not hub.repos


@pytest.mark.parametrize("name", ["tiny-student.safetensors", PEFT_FILE, "comfyui.json"])
def test_a_damaged_file_is_not_sent(hub, artefact, name):
    whole = (artefact / name).read_bytes()
    (artefact / name).write_bytes(whole[:-1] + b"?")
    with pytest.raises(ArtefactError, match=f"{name} is not the file that fewstep.json"):
        push(artefact)
    (artefact / name).unlink()
    with pytest.raises(ArtefactError, match=f"{name} is missing"):
        push(artefact)
    assert not hub.repos


def test_whole_models_go_when_they_are_asked_for_and_nothing_beside_them(hub, tmp_path):
    source = tiny_artefact(tmp_path / "source")
    export_artefact(str(source), tmp_path / "out", ExportOptions(license="mit", fused=True))
    contract = replace(read_contract(tmp_path / "out"), base={"id": "a/model", "fingerprint": "0f"})
    (tmp_path / "out" / CONTRACT_FILE).write_text(contract.to_json())
    (tmp_path / "out" / "fused" / "notes.txt").write_text("mine")
    push(tmp_path / "out", "me/plain")
    assert not [name for name in hub.repos["me/plain"]["files"] if name.startswith("fused/")]
    push(tmp_path / "out", "me/whole", fused=True)
    assert hub.repos["me/whole"]["files"].keys() == {*contract.files, CONTRACT_FILE, "README.md"}
    assert "fused/diffusers/vae/config.json" in contract.files


def test_under_another_name_the_old_files_go_and_those_of_others_stay(hub, artefact):
    push(artefact)
    hub.repos[REPO]["files"]["notes.txt"] = b"mine"
    renamed = replace(tiny_student(tiny_contract(base="me/tiny-model")), name="second")
    write_student(folder := artefact.parent / "second", renamed)
    push(folder)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert hub.repos[REPO]["files"].keys() == {*names, "notes.txt"}


def test_what_was_uploaded_loads_in_diffusers_and_here(hub, artefact):
    upload(upload_manifest(artefact), REPO)
    assert is_artefact(REPO)
    contract, weights = read_artefact(REPO)
    assert contract == read_artefact(artefact)[0]
    pipe = StableDiffusionPipeline.from_pretrained(tiny_pipeline())
    pipe.load_lora_weights(REPO, weight_name=LORA_FILE)
    mine = merge_lora(copy_of(tiny_family().network), weights)
    inputs = torch.ones(1, 4, 8, 8), torch.tensor([499]), torch.ones(1, 5, 16)
    with torch.no_grad():
        difference = pipe.unet(*inputs).sample - mine(*inputs).sample
    assert difference.abs().max() < 1e-4


def test_one_that_is_not_there_is_refused(hub):
    assert not is_artefact("me/nothing")
    with pytest.raises(ArtefactError, match="cannot be downloaded from the Hub"):
        read_artefact("me/nothing")


def test_a_public_repository_is_not_taken_for_a_private_one(hub, artefact):
    manifest = upload_manifest(artefact)
    upload(manifest, REPO, public=True)
    assert not hub.repos[REPO]["private"]
    with pytest.raises(UserError, match="exists and is public; use --public"):
        upload(manifest, REPO)
    hub.repos[REPO]["files"].clear()
    upload(manifest, REPO, public=True)
    assert CONTRACT_FILE in hub.repos[REPO]["files"]


def test_without_a_token_or_with_a_wrong_one_nothing_is_sent(hub, artefact, monkeypatch):
    manifest = upload_manifest(artefact)
    monkeypatch.setenv("HF_TOKEN", "a-wrong-one")
    with pytest.raises(UserError, match="did not take me/tiny-student") as error:
        upload(manifest, REPO)
    assert "a-wrong-one" not in str(error.value)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("fewstep.export.hub.get_token", lambda: None)
    with pytest.raises(UserError, match="no token for the Hub: log in with hf auth login"):
        upload(manifest, REPO)
    assert not hub.repos


def test_a_hub_that_does_not_answer_is_one_sentence(hub, artefact, monkeypatch):
    for module in (constants, hf_api):
        monkeypatch.setattr(module, "ENDPOINT", "http://127.0.0.1:9", raising=False)
    with pytest.raises(UserError, match=r"did not take me/tiny-student .*the network"):
        upload(upload_manifest(artefact), REPO)


def test_what_others_could_not_use_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "sd15").mkdir(parents=True)
    for i, base in enumerate((tiny_pipeline(), "models/sd15", "a/sd15.safetensors", "a\\b/c")):
        local = tiny_artefact(tmp_path / str(i), base=base)
        with pytest.raises(
            UserError, match=r"export it again with --base OWNER/NAME.*a place on this machine"
        ):
            upload_manifest(local)
    write_student(
        tmp_path / "unlicensed", tiny_student(tiny_contract(base="a/model"), license=None)
    )
    with pytest.raises(UserError, match="export it again with --license ID, such as"):
        upload_manifest(tmp_path / "unlicensed")
    with pytest.raises(UserError, match="has no fused/; export with --fused"):
        upload_manifest(tiny_artefact(tmp_path / "lora", base="a/model"), fused=True)

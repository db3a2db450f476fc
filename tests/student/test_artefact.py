"""An artefact that cannot be trusted is refused with a sentence that says why."""

import json
import pickle
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from fewstep.export.write import checksums, write_student
from fewstep.files import write_file
from fewstep.student.contract import CONTRACT_FILE, LORA_FILE, SCHEDULER_FILE, Contract
from fewstep.student.load import ArtefactError, read_artefact
from fewstep.student.networks import load_base, student_network
from fewstep.student.pipeline import FewStepPipeline
from tests.artefacts import (
    random_lora,
    tiny_artefact,
    tiny_contract,
    tiny_family,
    tiny_student,
)
from tests.tiny import save_tiny_pipeline, tiny_pipeline


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny_artefact(tmp_path_factory.mktemp("artefact") / "whole")


@pytest.fixture
def folder(whole, tmp_path):
    """A copy to damage."""
    return shutil.copytree(whole, tmp_path / "copy")


def rewrite(folder, **changes):
    """Edit the contract as somebody would who also updates its checksum."""
    contract = Contract.from_json((folder / CONTRACT_FILE).read_text())
    (folder / CONTRACT_FILE).write_text(replace(contract, **changes).to_json())


def refusal(folder):
    with pytest.raises(ArtefactError) as error:
        read_artefact(folder)
    return str(error.value)


def test_a_whole_one_is_read(whole):
    contract, weights = read_artefact(whole)
    mine = random_lora(tiny_family().network)
    assert weights.keys() == mine.keys()
    assert all(torch.equal(weights[name], mine[name]) for name in mine)
    assert contract.files == {
        name: digest for name, digest in checksums(whole).items()
        if name not in (CONTRACT_FILE, "README.md")
    }  # fmt: skip


@pytest.mark.parametrize("name", [CONTRACT_FILE, LORA_FILE, SCHEDULER_FILE])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert f"{name} is missing" in refusal(folder)


@pytest.mark.parametrize(
    ("entry", "value"),
    [("guidance_scale", 8.0), ("data", {"resolution": 128}), ("train", {"seed": 1})],
)
def test_an_edited_contract_is_refused(folder, entry, value):
    entries = json.loads((folder / CONTRACT_FILE).read_text())
    entries[entry] = {**entries[entry], **value} if isinstance(value, dict) else value
    (folder / CONTRACT_FILE).write_text(json.dumps(entries))
    assert "was changed after it was written" in refusal(folder)


@pytest.mark.parametrize("checksum", [None, "0f"])
def test_a_contract_without_its_checksum_is_refused(folder, checksum):
    entries = json.loads((folder / CONTRACT_FILE).read_text())
    entries.pop("seal")
    entries |= {"seal": checksum} if checksum else {}
    (folder / CONTRACT_FILE).write_text(json.dumps(entries))
    assert "its checksum (seal) does not match" in refusal(folder)


def test_edited_timesteps_are_refused_whatever_the_checksum(folder):
    text = (folder / CONTRACT_FILE).read_text().replace("749", "759")
    (folder / CONTRACT_FILE).write_text(text)
    assert "does not follow from the method" in refusal(folder)


def test_an_unknown_version_is_refused(folder):
    text = (folder / CONTRACT_FILE).read_text()
    (folder / CONTRACT_FILE).write_text(text.replace('"format_version": 2', '"format_version": 3'))
    assert "has format_version 3; this fewstep reads 1 and 2: update fewstep" in refusal(folder)


@pytest.mark.parametrize(
    ("part", "entry", "value"),
    [
        ("base", "fingerprint", None),
        ("base", "id", ""),
        ("data", "resolution", None),
        ("data", "resolution", 0),
        ("data", "resolution", -64),
        ("data", "resolution", "64"),
    ],
)
def test_a_contract_that_lacks_what_generating_needs_is_refused(folder, part, entry, value):
    whole = {"base": {"id": "a/b", "fingerprint": "0f"}, "data": {"resolution": 64}}
    rewrite(folder, **{part: whole[part] | {entry: value}})
    assert f"has {part}.{entry} = {value!r}, with which nothing can be generated" in refusal(folder)


@pytest.mark.parametrize(
    "damage",
    [lambda w: {n: w[n] for n in sorted(w)[1:]}, lambda w: {n: v[:1] for n, v in w.items()}],
)
def test_a_whole_network_that_is_not_whole_is_refused(tmp_path, damage):
    contract = replace(tiny_contract(), adapter={"preset": "full"})
    network = tiny_family().network.to(memory_format=torch.contiguous_format)
    student = tiny_student(contract, dict(network.state_dict()))
    write_student(tmp_path / "full", replace(student, network_config=network.config))
    assert read_artefact(tmp_path / "full")[1].keys() == network.state_dict().keys()
    with pytest.raises(ArtefactError, match="the student's network is not whole"):
        student_network(tiny_family(), contract, damage(network.state_dict()))


def test_weights_of_another_training_are_refused(folder):
    weights = load_file(folder / LORA_FILE)
    save_file({name: 2 * weight for name, weight in weights.items()}, folder / LORA_FILE)
    assert "its sha256 differs" in refusal(folder)


def by_kohyas_names(weights):
    down, up = (weights[next(n for n in weights if end in n)] for end in (".lora_A.", ".lora_B."))
    name = "lora_unet_mid_block_attentions_0_proj_in"
    return {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (by_kohyas_names, "no part of a LoRA by PEFT's names"),
        (lambda w: {n: v for n, v in w.items() if ".mid_block." not in n}, "and 79 were trained"),
        (lambda w: {}, "it has no weights"),
        (lambda w: dict(sorted(w.items())[:-1]), "is missing"),
    ],
)
def test_a_lora_that_is_not_the_whole_one_is_refused(folder, damage, message):
    save_file(damage(load_file(folder / LORA_FILE)), folder / LORA_FILE)
    rewrite(folder, files={})
    assert message in refusal(folder)


def test_pickled_weights_are_never_read(folder):
    (folder / LORA_FILE).unlink()
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_lora_weights.bin")
    assert "pytorch_lora_weights.bin, which is pickled" in refusal(folder)


def test_a_pickle_in_the_clothes_of_safetensors_is_not_run(folder, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    (folder / LORA_FILE).write_bytes(pickle.dumps(Trap()))
    rewrite(folder, files={LORA_FILE: checksums(folder)[LORA_FILE]})
    assert "no whole safetensors file" in refusal(folder)
    assert not (tmp_path / "sprung").exists()


def test_half_a_file_is_refused_where_the_contract_has_no_sha256(folder):
    rewrite(folder, files={})
    write_file(folder / LORA_FILE, (folder / LORA_FILE).read_bytes()[:-100])
    assert "no whole safetensors file" in refusal(folder)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "a\\..\\..\\b"])
def test_a_path_out_of_the_folder_is_refused(folder, name):
    rewrite(folder, files={name: "0f"})
    assert "lies outside of the artefact's folder" in refusal(folder)


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    secret = tmp_path / "secret.safetensors"
    (folder / LORA_FILE).rename(secret)
    (folder / LORA_FILE).symlink_to(secret)
    assert "lies outside of the artefact's folder" in refusal(folder)


def test_the_links_of_the_hubs_cache_are_followed(whole, tmp_path):
    snapshot, blobs = tmp_path / "models--a--b/snapshots/c0ffee", tmp_path / "models--a--b/blobs"
    shutil.copytree(whole, snapshot)
    blobs.mkdir()
    (snapshot / LORA_FILE).rename(blobs / "0f")
    (snapshot / LORA_FILE).symlink_to(blobs / "0f")
    assert read_artefact(snapshot)[1]


@pytest.mark.parametrize("parent", ["snapshots", "models--a--b"])
def test_links_out_of_a_folder_that_only_looks_like_the_hubs_are_refused(whole, tmp_path, parent):
    folder = shutil.copytree(whole, tmp_path / parent / "c0ffee")
    (folder / LORA_FILE).rename(tmp_path / "0f")
    (folder / LORA_FILE).symlink_to(tmp_path / "0f")
    assert "lies outside of the artefact's folder" in refusal(folder)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("timestep_spacing", "leading"),
        ("set_alpha_to_one", False),
        ("beta_end", 0.02),
        ("_class_name", "EulerDiscreteScheduler"),
        ("_class_name", "TCDScheduler"),
        ("_class_name", "LCMScheduler"),
    ],
)
def test_a_scheduler_config_that_samples_wrongly_is_refused(folder, entry, value):
    config = json.loads((folder / SCHEDULER_FILE).read_text())
    (folder / SCHEDULER_FILE).write_text(json.dumps(config | {entry: value}))
    assert f"has {entry} = {value!r}, where this student needs" in refusal(folder)


def test_another_base_model_is_refused(whole, tmp_path):
    other = save_tiny_pipeline(tmp_path / "other")
    name = "unet/diffusion_pytorch_model.safetensors"
    weights = load_file(other / name)
    save_file({n: w + 0.01 for n, w in weights.items()}, other / name, {"format": "pt"})
    with pytest.raises(ArtefactError, match=r"another model than .* differ in their weights"):
        FewStepPipeline.from_pretrained(whole, base=str(other))


@pytest.mark.parametrize(
    ("scheduler", "difference"),
    [
        ({"beta_end": 0.02}, "noise schedule"),
        ({"prediction_type": "v_prediction"}, "prediction type"),
    ],
)
def test_the_same_weights_under_another_scheduler_are_refused(
    whole, tmp_path, scheduler, difference
):
    other = save_tiny_pipeline(tmp_path / "other", **scheduler)
    with pytest.raises(ArtefactError, match=f"another model .* in their {difference}; .*base="):
        FewStepPipeline.from_pretrained(whole, base=str(other))


def test_a_base_model_that_is_gone_is_named_with_a_hint(whole, tmp_path):
    gone = tiny_artefact(tmp_path / "artefact", base=tmp_path / "sd15.safetensors")
    with pytest.raises(ArtefactError, match=r"no such file; give base= \(--base\) .*a copy of it"):
        FewStepPipeline.from_pretrained(gone)
    assert FewStepPipeline.from_pretrained(gone, base=str(tiny_pipeline())).contract


@pytest.mark.parametrize(
    ("named", "config"),
    [
        ({"id": "me/model", "config": "sd21"}, "sd21"),
        ({"id": "stabilityai/stable-diffusion-2-1", "config": "/gone"}, "sd21"),
        ({"id": "me/model"}, None),
    ],
)
def test_a_checkpoint_file_in_the_bases_place_is_built_as_the_base(
    whole, monkeypatch, named, config
):
    used = {}
    contract, _ = read_artefact(whole)
    monkeypatch.setattr("fewstep.student.networks.load_model",
                        lambda base, **options: used.update(options) or tiny_family())  # fmt: skip
    named = {**contract.base, "revision": "c0ffee", **named}
    load_base(replace(contract, base=named), whole, "sd21.safetensors")
    assert (used.pop("config"), "revision" in used) == (config, False)


def test_neither_a_folder_nor_a_hub_id_is_refused():
    with pytest.raises(ArtefactError, match="no such folder, and it is no Hub id such as"):
        read_artefact("no such folder")

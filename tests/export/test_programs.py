"""Programs that are installed are asked whether they read an export, and a wrong file is seen."""

from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file

from fewstep.errors import UserError
from fewstep.export import programs
from fewstep.export.export import ExportOptions, export_artefact
from fewstep.export.programs import Program, check_names, check_programs
from fewstep.models.loading import load_model
from fewstep.student.contract import LORA_FILE
from fewstep.student.load import read_contract
from fewstep.student.networks import load_base
from tests.artefacts import tiny_artefact, tiny_contract


@pytest.fixture(scope="module", params=["uniform", "quadratic"])
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checked")
    settings = {"num_solver_steps": 16, "spacing": request.param}
    source = tiny_artefact(folder / "source", "cd", **settings)
    options = ExportOptions(fused=True, check=("diffusers", "peft"))
    loaded = []
    with pytest.MonkeyPatch.context() as patch:
        load = lambda *args, **kwargs: loaded.append(args) or load_model(*args, **kwargs)  # noqa: E731
        patch.setattr("fewstep.student.networks.load_model", load)
        said = export_artefact(str(source), folder / "out", options)
    assert len(loaded) == 1, "the base is loaded once, for the whole model and for the check"
    return folder / "out", said


def test_every_file_that_diffusers_and_peft_know_is_read_right(exported):
    _, said = exported
    for file in (LORA_FILE, "tiny-student.safetensors", "fused/diffusers/",
                 "adapter_model.safetensors"):  # fmt: skip
        assert f"reads {file} right" in said


def without_the_last_layer(weights):
    names = sorted(weights)
    module = names[-1].split(".lora_")[0]
    return {name: weights[name] for name in names if not name.startswith(module)}


@pytest.mark.parametrize(
    "damage",
    [lambda w: {n: v * (2 if "lora_B" in n or "lora_up" in n else 1) for n, v in w.items()},
     without_the_last_layer],
    ids=["twice as strong", "a layer less"],
)  # fmt: skip
def test_a_file_that_says_something_else_is_seen(exported, damage):
    folder, _ = exported
    family = load_base(read_contract(folder), folder)
    path = folder / "tiny-student.safetensors"
    whole = path.read_bytes()
    try:
        save_file(damage(load_file(path)), path, {"format": "pt"})
        with pytest.raises(UserError, match=r"diffusers .* reads tiny-student\.safetensors WRONG"):
            check_programs(folder, ["diffusers"], family)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("names", "settings", "fused", "message"),
    [
        (("paint",), {}, True, "--check is 'paint'; known: diffusers, peft, onnx, openvino"),
        (("other",), {}, True, "'other', which is not installed: pip install no-such-program"),
        (("here",), {}, False, "'here', which reads whole models: add --fused"),
        (("here",), {"num_solver_steps": 16, "spacing": "quadratic"}, True,
         "'here', which takes no timesteps"),
    ],
)  # fmt: skip
def test_a_program_that_cannot_read_it_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, names, settings, fused, message
):
    more = {
        "other": Program("no-such-program", programs.in_peft),
        "here": Program("torch", programs.in_peft, only_whole=True),
    }
    known = programs.PROGRAMS | (more if names != ("paint",) else {})
    monkeypatch.setattr(programs, "PROGRAMS", known)
    source = tiny_artefact(tmp_path / "source", **settings)
    options = ExportOptions(fused=fused, check=names)
    with pytest.raises(UserError, match=message):
        export_artefact(str(source), tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "fused", "message"),
    [("diffusers", False, "add --fused"), ("peft", True, "which reads LoRAs alone")],
)
def test_a_whole_network_is_never_said_to_be_checked_where_nothing_was(name, fused, message):
    contract = replace(tiny_contract(), adapter={"preset": "full"})
    with pytest.raises(UserError, match=message):
        check_names([name], contract, fused)
    check_names(["diffusers"], contract, fused=True)

"""The matrix of real programs: its rows, how they are judged and merged."""

import json

import pytest
import torch

from benchmarks import style_lora
from benchmarks.programs import __main__ as programs
from benchmarks.programs import cases, in_comfyui, reader
from fewstep.export.comfyui import workflow
from fewstep.models.loading import load_model
from tools.figures import RESULTS
from tools.use_it_in import STUDENTS, contract_of

TRAINED = [999, 749, 499, 249]
RIGHT = {"case": "cd", "file": "folder", "timesteps": TRAINED, "keys": [3, 3], "difference": 0.5}


def verdict(**changed):
    return programs.row_of("diffusers-5.5", {}, RIGHT | changed, TRAINED)["verdict"]


def committed():
    return json.loads((RESULTS / "programs.json").read_text(encoding="utf-8"))["rows"]


def test_every_program_was_run_and_reads_what_it_is_known_to_read():
    rows = committed()
    assert {row["program"] for row in rows} == set(programs.PROGRAMS)
    for row in rows:
        not_read = getattr(programs.PROGRAMS[row["program"]], "NOT_READ", {})
        if (row["student"], row["file"]) in not_read.get(row["program"], ()):
            assert row["verdict"] == "not read"
            assert row["largest_difference"] > programs.LIMIT
        else:
            assert row["verdict"] == "right"
            assert row["largest_difference"] is None or row["largest_difference"] <= programs.LIMIT


def test_comfyui_samples_each_kind_of_student_by_its_workflow():
    rows = [row for row in committed() if row["program"] == "comfyui"]
    for student in in_comfyui.STUDENTS:
        asked = list(contract_of(STUDENTS[student]).timesteps())
        (own,) = [r for r in rows if (r["student"], r["file"]) == (student, reader.KOHYA_LORA)]
        assert own["timesteps"] == asked
        assert own["keys"][0] == own["keys"][1] > 100


def test_comfyui_adds_a_second_lora_at_the_weights_that_the_style_was_measured_at():
    measured = {weights for weights in style_lora.WEIGHTS if all(weights)}
    assert set(reader.WEIGHTS) == measured
    rows = {row["file"]: row for row in committed() if row["program"] == "comfyui"}
    for weights in measured:
        row = rows[reader.of_both(weights)]
        assert row["keys"][0] == row["keys"][1] > rows[reader.KOHYA_LORA]["keys"][1]
        assert row["largest_difference"] < 0.1  # floats on both sides


def test_a_second_lora_takes_the_place_of_the_first_in_a_workflow(tmp_path):
    case = tmp_path / "case"
    case.mkdir()
    contract = contract_of(STUDENTS["cd"])
    (case / "comfyui.json").write_text(workflow(contract, "NAME.safetensors"))
    nodes = in_comfyui.workflow(case, reader.KOHYA_LORA)
    (sampler,) = [node for node in nodes if node["type"] == "KSampler"]
    first = sampler["inputs"]["model"][0]
    in_comfyui.with_style(nodes, case, (1.0, 0.5))
    by_id = {node["id"]: node for node in nodes}
    second = by_id[sampler["inputs"]["model"][0]]
    assert second["widgets_values"] == ["case/style.safetensors", 0.5]
    assert second["inputs"] == {"model": (first, 0)}
    assert by_id[first]["widgets_values"] == ["case/student.safetensors", 1.0]


def test_invokeai_reads_the_folder_and_the_kohya_file_of_each_kind_of_student():
    rows = {(r["student"], r["file"]): r for r in committed() if r["program"] == "invokeai"}
    for student in reader.STUDENTS:
        for file in (str(reader.FOLDER), reader.KOHYA_LORA):
            row = rows[student, file]
            assert row["verdict"] == "right"
            assert row["timesteps"] == TRAINED
            assert row["keys"][0] == row["keys"][1] > 100
    for file in (reader.DIFFUSERS_LORA, reader.PEFT_LORA):
        assert rows[reader.MULTI, file]["keys"][0] == 0


def test_a_workflows_widgets_are_read_as_the_frontend_lays_them_out():
    class Sampler:
        @staticmethod
        def INPUT_TYPES():
            numbers = {"model": ("MODEL",), "seed": ("INT",), "cfg": ("FLOAT", {})}
            return {"required": numbers | {"name": (["lcm", "euler"],)}}

    assert in_comfyui.values(Sampler, [3, "fixed", 1.0, "lcm"]) == {
        "seed": 3, "cfg": 1.0, "name": "lcm"
    }  # fmt: skip
    with pytest.raises(ValueError, match="name has no 'dpm'"):
        in_comfyui.values(Sampler, [3, "fixed", 1.0, "dpm"])
    with pytest.raises(ValueError, match="no widgets for"):
        in_comfyui.values(Sampler, [3, "fixed", 1.0, "lcm", 1])


def test_every_diffusers_applies_every_layer_of_both_lora_files():
    ran = {(row["program"], row["file"]): row["keys"] for row in committed()}
    for program in programs.in_diffusers.ENVIRONMENTS:
        for file in (reader.DIFFUSERS_LORA, reader.KOHYA_LORA):
            applied, trained = ran[program, file]
            assert applied == trained > 0


@pytest.mark.parametrize(
    "changed",
    [{"timesteps": [999, 666, 333, 0]}, {"keys": [2, 3]}, {"difference": programs.LIMIT + 0.1}],
)
def test_other_timesteps_a_missing_tensor_and_another_image_are_wrong(changed):
    assert verdict() == verdict(keys=None) == "right"
    assert verdict(**changed) == "wrong"


def test_a_file_that_a_program_does_not_read_is_wrong_when_it_is_read(monkeypatch):
    known = {"diffusers-5.5": {(RIGHT["case"], RIGHT["file"])}}
    monkeypatch.setattr(programs.in_diffusers, "NOT_READ", known, raising=False)
    assert verdict(difference=programs.LIMIT + 0.1) == "not read"
    assert verdict() == "wrong"


def test_a_repository_is_refused_unless_it_is_the_programs(tmp_path, monkeypatch, capsys):
    given = ["programs", "--environments", str(tmp_path), "-o", str(tmp_path / "p.json")]
    for name, said in (("comfyui", "no comfyui_version.py"), ("onnx-runtime", "no onnx-runtime")):
        monkeypatch.setattr("sys.argv", [*given, "--repository", f"{name}={tmp_path}"])
        with pytest.raises(SystemExit):
            programs.arguments()
        assert said in " ".join(capsys.readouterr().err.split())


def test_random_loras_have_products_that_no_order_of_sums_rounds():
    weights = cases.student(cases.Case("cd"), load_model("bundled"), "bundled").weights
    name = next(name for name in weights if "ff.net" in name and name.endswith("lora_A.weight"))
    down, up = weights[name], weights[name.replace("lora_A", "lora_B")]
    assert torch.equal((up.double() @ down.double()).float().double(), up.double() @ down.double())


def test_a_programs_new_rows_replace_its_old_ones_and_no_others(tmp_path):
    row = {"program": "diffusers-5.5", "student": "cd", "file": "folder", "is": "old"}
    path = tmp_path / "programs.json"
    path.write_text(json.dumps({"rows": [row, row | {"program": "onnx-runtime"}]}))
    merged = programs.merged(path, [row | {"is": "new"}])
    assert [(r["program"], r["is"]) for r in merged] == [
        ("diffusers-5.5", "new"), ("onnx-runtime", "old")
    ]  # fmt: skip


def test_a_program_that_is_not_installed_is_refused_before_any_work(tmp_path, monkeypatch, capsys):
    given = ["programs", "--environments", str(tmp_path), "-o", str(tmp_path / "p.json")]
    for name, said in (("onnx-runtime", "add --build"), ("nothing", "known: diffusers-4.44")):
        monkeypatch.setattr("sys.argv", [*given, name])
        with pytest.raises(SystemExit):
            programs.arguments()
        assert said in capsys.readouterr().err

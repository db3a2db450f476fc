"""The matrix of real programs: its rows, how they are judged and merged."""

import itertools
import json

import pytest

from benchmarks.programs import __main__ as programs
from benchmarks.programs import reader
from tools.figures import RESULTS

TRAINED = [999, 749, 499, 249]
RIGHT = {"case": "cd", "file": "folder", "timesteps": TRAINED, "keys": [3, 3], "difference": 0.5}


def verdict(**changed):
    return programs.row_of("diffusers-5.5", {}, RIGHT | changed, TRAINED)["verdict"]


def test_every_program_was_run_for_every_student_and_gives_its_image():
    rows = json.loads((RESULTS / "programs.json").read_text(encoding="utf-8"))["rows"]
    ran = {(row["program"], row["student"]) for row in rows}
    assert ran >= set(itertools.product(programs.PROGRAMS, reader.STUDENTS))
    for row in rows:
        not_read = getattr(programs.PROGRAMS[row["program"]], "NOT_READ", ())
        if (row["student"], row["file"]) in not_read:
            assert row["verdict"] == "not read"
            assert row["largest_difference"] > programs.LIMIT
        else:
            assert row["verdict"] == "right"
            assert row["largest_difference"] <= programs.LIMIT


def test_every_diffusers_applies_every_layer_of_both_lora_files():
    rows = json.loads((RESULTS / "programs.json").read_text(encoding="utf-8"))["rows"]
    ran = {(row["program"], row["file"]): row["keys"] for row in rows}
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
    monkeypatch.setattr(
        programs.in_diffusers, "NOT_READ", {(RIGHT["case"], RIGHT["file"])}, raising=False
    )
    assert verdict(difference=programs.LIMIT + 0.1) == "not read"
    assert verdict() == "wrong"


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

"""Results are written whole and read strictly."""

import json
import re
import subprocess
from dataclasses import asdict, replace

import pytest

import fewstep
from fewstep.errors import UserError
from fewstep.evaluation.intervals import Interval
from fewstep.evaluation.provenance import commit, machine, processor
from fewstep.evaluation.results import Results, Row, joined, load, overview, save

METRICS = {"prompt_accuracy": Interval(0.7, 0.68, 0.72, 2000)}
TEACHER = Row("bundled", "teacher", 50, 100, None, METRICS)
SEEDS = [Row(f"runs/cd-{seed}", "cd", 4, 4, seed, METRICS) for seed in range(3)]
POOLED = Row("runs/cd-0, runs/cd-1, runs/cd-2", "cd", 4, 4, None, METRICS)
RESULTS = Results("bundled", "fewstep evaluate", "abc123", "a machine", (TEACHER, *SEEDS, POOLED))


def test_what_is_saved_is_what_is_read(tmp_path):
    save(RESULTS, tmp_path / "results.json")
    assert load(tmp_path / "results.json") == RESULTS
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_the_file_has_the_schema_of_the_contract():
    written = json.loads(RESULTS.to_json())
    names = ["protocol", "command", "commit", "machine", "rows", "unavailable", "cost"]
    assert list(written) == names
    del written["cost"]
    assert Results.from_json(json.dumps(written)) == RESULTS, "files that are older than the entry"
    assert list(written["rows"][0]) == ["source", "method", "steps", "calls", "seed", "metrics"]
    assert written["rows"][0]["metrics"]["prompt_accuracy"] == {
        "value": 0.7,
        "low": 0.68,
        "high": 0.72,
        "n": 2000,
    }


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda top: top.pop("protocol"), "results.json: the entry protocol is missing"),
        (lambda top: top.update(extra=1), "results.json: unknown entry extra; known: protocol, "),
        (lambda top: top.update(machine=3), "machine is 3; it has to be text"),
        (
            lambda top: top["rows"][1].update(stepz=4),
            r"results.json: unknown entry rows\[1\]\.stepz; did you mean steps?",
        ),
        (
            lambda top: top["rows"][0]["metrics"]["prompt_accuracy"].update(m=4),
            r"accuracy\.m; known: value, low",
        ),
        (lambda top: top["rows"][0].update(steps="4"), r"rows\[0\]\.steps is '4'"),
        (lambda top: top["rows"][0].update(calls=True), "calls is True"),
        (lambda top: top["rows"][0]["metrics"].update(fid=3.0), "fid is 3.0; it has to be a table"),
        (lambda top: top["rows"].append(None), r"rows\[5\] is None; it has to be a table"),
        (
            lambda top: top["rows"][0]["metrics"]["prompt_accuracy"].update(low=0.9),
            r"results.json: rows\[0\]\.metrics\.prompt_accuracy is not an interval: ",
        ),
    ],
)
def test_a_damaged_file_is_refused_by_name(spoil, words):
    entries = asdict(RESULTS) | {"rows": [asdict(row) for row in RESULTS.rows]}
    entries = json.loads(json.dumps(entries))
    spoil(entries)
    with pytest.raises(ValueError, match=words):
        Results.from_json(json.dumps(entries), "results.json")


def test_half_a_file_is_refused():
    with pytest.raises(UserError, match="is not JSON"):
        Results.from_json(RESULTS.to_json()[:100])


def test_protocols_do_not_mix_in_one_table():
    with pytest.raises(ValueError, match=r"different protocols .*bundled; coco2017-5k"):
        joined([RESULTS, replace(RESULTS, protocol="coco2017-5k")])


def test_a_row_that_two_results_share_appears_once():
    other = replace(RESULTS, rows=(TEACHER, replace(POOLED, method="ct")), command="another")
    both = joined([RESULTS, other])
    assert both.rows == (*RESULTS.rows, replace(POOLED, method="ct"))
    assert both.command == "fewstep evaluate; another"
    assert both.machine == "a machine"
    assert both.cost == ""


def test_single_seeds_are_left_out_of_the_overview_only_where_a_pooled_row_stands_for_them():
    assert overview(RESULTS.rows) == [TEACHER, POOLED]
    assert overview(SEEDS) == SEEDS
    other = Row("runs/cd-other", "cd", 4, 4, 0, METRICS)
    assert overview([*RESULTS.rows, other]) == [TEACHER, POOLED, other]


def test_the_machine_is_described_without_its_name(tmp_path):
    import platform

    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n")
    assert processor(cpuinfo).startswith("Some CPU @ 2 GHz, ")
    assert "torch 2" in machine()
    assert platform.node() not in machine()
    assert "/" not in commit()
    assert commit()


def test_a_commit_is_dirty_where_code_changed_and_not_where_pages_did(tmp_path, monkeypatch):
    code, page = tmp_path / "fewstep" / "__init__.py", tmp_path / "docs" / "page.md"
    for file in (code, page):
        file.parent.mkdir()
        file.write_text("")
    monkeypatch.setattr(fewstep, "__file__", str(code))
    assert commit() == f"fewstep {fewstep.__version__}"
    me = ["-c", "user.name=me", "-c", "user.email=me@here"]
    for words in (["init", "-q"], ["add", "."], [*me, "commit", "-qm", "all"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    clean = commit()
    assert re.fullmatch("[0-9a-f]{7,}", clean)
    page.write_text("written")
    assert commit() == clean
    code.write_text("changed")
    assert commit() == f"{clean}-dirty"

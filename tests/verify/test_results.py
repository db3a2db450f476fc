"""The committed results hold what the project claims, and the docs and the tables show them."""

import copy
import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from fewstep.cli import app
from fewstep.verify import bench
from fewstep.verify.plot import plot
from fewstep.verify.predictions import (
    PREDICTIONS,
    QUICK_PREDICTIONS,
    check_predictions,
    network_row,
)
from fewstep.verify.tables import TABLES, rich_table

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def results():
    return json.loads((ROOT / "benchmarks/results/verify.json").read_text(encoding="utf-8"))


def test_they_come_from_the_full_bench(results):
    assert results["command"] == "fewstep verify -o DIR"
    assert {r["same_noise"]["n"] for r in results["networks"]} == {5}
    assert results["cpu_seconds"] < 300


def test_the_orders_of_convergence_are_those_of_the_solvers(results):
    orders = {name: found["order"] for name, found in results["solvers"]["boundary"].items()}
    assert orders == {"ddim": pytest.approx(1, abs=0.15), "heun": pytest.approx(2, abs=0.25)}


def test_the_flow_is_exact(results):
    assert max(halving["rms"] for halving in results["flow"].values()) < 5e-6


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize(("method", "calls"), [("cd", 1), ("multi-boundary-cd", 4)])
def test_students_are_far_better_than_ddim_at_the_same_nfe(results, method, calls, guidance_scale):
    student = network_row(results, method, calls, "plane", guidance_scale)["same_noise"]
    teacher = network_row(results, "teacher", calls, "plane", guidance_scale)["same_noise"]
    assert student["high"] < teacher["low"] / 2


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_cd_at_four_stochastic_calls_beats_ddim_in_energy_distance(results, guidance_scale):
    student = network_row(results, "cd", 4, "plane", guidance_scale)["energy"]
    teacher = network_row(results, "teacher", 4, "plane", guidance_scale)["energy"]
    assert student["high"] < teacher["low"]


@pytest.mark.parametrize("world", ["plane", "line"])
def test_students_of_multi_boundary_ct_are_closer_to_the_truth_than_those_of_ct(results, world):
    four = network_row(results, "multi-boundary-ct", 4, world, 1.0)["same_noise"]
    one = network_row(results, "ct", 1, world, 1.0)["same_noise"]
    assert four["high"] < one["low"]


def test_the_objective_of_multi_boundary_ct_has_less_bias_than_that_of_ct(results):
    four, one = (
        network_row(results, method, calls, "line", 1.0)["objective"]
        for method, calls in (("multi-boundary-ct", 4), ("ct", 1))
    )
    assert four["high"] < one["low"]


def test_every_prediction_is_published_and_a_refuted_one_with_its_reason(results):
    published = results["predictions"]
    assert [p["claim"] for p in published] == [claim for claim, _ in PREDICTIONS]
    assert [p["holds"] for p in published] == [p["holds"] for p in check_predictions(results)]
    assert all(p["holds"] or p["reason"] for p in published)


def test_what_the_quick_bench_claims_holds_in_the_full_one_too(results):
    assert all(p["holds"] for p in check_predictions(results, QUICK_PREDICTIONS))


def test_a_prediction_that_fails_without_a_known_reason_is_named_and_ends_with_code_1(
    results, monkeypatch
):
    """Here multi-boundary CT's students land as far from its fixed point as from the truth."""
    monkeypatch.setattr(bench, "measure", lambda effort, track: results)
    known = CliRunner().invoke(app, ["verify"])
    words = "19 of 21 predictions hold; the reasons of the others are known"
    assert (known.exit_code, words in " ".join(known.output.split())) == (0, True)

    broken = copy.deepcopy(results)
    row = network_row(broken, "multi-boundary-ct", 4, "line")
    row["network"] = row["same_noise"]
    broken["predictions"] = check_predictions(broken)
    monkeypatch.setattr(bench, "measure", lambda effort, track: broken)
    failed = CliRunner().invoke(app, ["verify"])
    words = "1 of 21 predictions fail: So do multi-boundary CT's."
    assert (failed.exit_code, words in " ".join(failed.output.split())) == (1, True)


@pytest.mark.parametrize("name", TABLES)
def test_a_tables_rows_fill_its_columns_and_it_prints(results, name):
    table = TABLES[name](results)
    assert {len(row) for row in table.rows} == {len(table.columns)}
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(rich_table(table))
    assert table.title in console.export_text()


def test_the_docs_show_every_table():
    page = (ROOT / "docs/is-it-right.md").read_text(encoding="utf-8")
    assert all(f"<!-- figures: verify-{name} -->" in page for name in TABLES)


def test_the_plot_can_be_drawn_again(results, tmp_path):
    plot(results, tmp_path / "verify.png")
    assert (tmp_path / "verify.png").stat().st_size > 50_000

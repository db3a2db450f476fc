"""The notebook: short cells that define nothing, and both of its ways run from top to bottom."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.data.samples import coco
from tests.tiny import into_hub_cache, tiny_pipeline

PATH = Path(__file__).parents[2] / "notebooks" / "consistency_distillation.ipynb"


def notebook() -> nbformat.NotebookNode:
    return nbformat.read(PATH, as_version=4)


def code_cells() -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook().cells if cell.cell_type == "code"]


def executed(settings: str) -> nbformat.NotebookNode:
    """Run the notebook from a clean kernel, with more settings at the end of its first cell."""
    changed = notebook()
    first = next(cell for cell in changed.cells if cell.cell_type == "code")
    first.source += f"\n{settings}"
    where = {"metadata": {"path": str(PATH.parent)}}
    NotebookClient(
        changed, timeout=None, startup_timeout=600, kernel_name="python3", resources=where
    ).execute()
    return changed


def test_cells_are_short_and_define_nothing():
    for cell in code_cells():
        assert len(cell.source.splitlines()) <= 15, cell.source
        assert not any(line.startswith(("def ", "class ")) for line in cell.source.splitlines())


def test_its_outputs_are_committed_whole_and_small():
    assert PATH.stat().st_size < 3_000_000
    assert [cell.execution_count for cell in code_cells()] == [*range(1, len(code_cells()) + 1)]
    outputs = [output for cell in code_cells() for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 8


def test_the_outputs_say_nothing_of_the_machine_that_made_them():
    text = str([cell.outputs for cell in code_cells()])
    assert not re.search(r"/(home|root|tmp|Users|work)/|Warning:|Traceback \(", text)


@pytest.mark.slow
def test_the_laptops_way_runs_from_a_clean_kernel(tmp_path):
    executed(f"""
changes = ["train.steps=3", "train.batch_size=4", "data.num_pairs=32", "train.preview_every=0"]
out, num_prompts = {str(tmp_path)!r}, 100
""")


@pytest.mark.slow
def test_the_t4s_way_runs_on_a_tiny_pipeline_and_a_set_like_coco(tmp_path, monkeypatch):
    base = into_hub_cache("you/base", tiny_pipeline(), tmp_path / "home", "c0ffee" + "0" * 34)
    (base / "README.md").write_text("---\nlicense: openrail\n---\n")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    changes = [
        'model.base="you/base"', 'model.precision="fp32"',
        f'data.path="{coco(tmp_path / "coco")}"', "data.resolution=64", "data.num_pairs=8",
        "train.steps=2", "train.batch_size=2", "train.accumulate=2", "train.warmup=0",
        "train.preview_every=0", "adapter.rank=2", "adapter.alpha=2",
    ]  # fmt: skip
    executed(f"""
ON_T4, recipe, changes = True, "sd15-t4.toml", {changes!r}
out, prompts = {str(tmp_path / "runs")!r}, ["a red heart", "two stars"]
""")

"""Every figure in the README and the docs is that of its committed results file."""

import json
import re
import runpy
import shlex
import sys
from itertools import pairwise

import pytest

from tools.figures import MARK, RESULTS, ROOT, filled, pages, seconds_per_image


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_a_pages_figures_are_those_of_its_results(page):
    text = page.read_text(encoding="utf-8")
    assert text == filled(text), "run python tools/figures.py"


def test_the_readme_has_figures_at_all():
    assert "bundled" in {mark[2] for mark in MARK.finditer(pages()[0].read_text(encoding="utf-8"))}


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_a_results_file_names_the_one_command_that_makes_it(path, monkeypatch):
    words = shlex.split(json.loads(path.read_text(encoding="utf-8"))["command"])
    if words[0] == "fewstep":
        assert re.search(rf"^def {words[1]}\(", (ROOT / "fewstep/cli.py").read_text(), re.MULTILINE)
        return
    assert words[0] == "python"
    is_module = words[1] == "-m"
    script = ROOT / (f"{words[2].replace('.', '/')}.py" if is_module else words[1])
    if is_module and not script.is_file():
        script = script.with_suffix("") / "__main__.py"
    arguments = words[3 if is_module else 2 :]
    assert script.is_file()
    if arguments:  # asked for help, a script looks at what stands before and does no work
        monkeypatch.setattr(sys, "argv", [str(script), *arguments, "--help"])
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(script), run_name="__main__")
        assert left.value.code == 0


@pytest.mark.parametrize("name", ["train_step_batches.json", "sampling.json"])
def test_an_image_takes_no_longer_in_a_larger_batch(name):
    rows = json.loads((RESULTS / name).read_text(encoding="utf-8"))["rows"]
    ours = [row for row in rows if row["design"] == "fewstep"]
    assert len(ours) > 1
    for small, large in pairwise(sorted(ours, key=lambda row: row["batch_size"])):
        assert seconds_per_image(large) <= 1.05 * seconds_per_image(small)

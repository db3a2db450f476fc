"""Every figure in the README and the docs is that of its committed results file."""

import json
import re
import shlex

import pytest

from tools.figures import MARK, RESULTS, ROOT, filled, pages


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_a_pages_figures_are_those_of_its_results(page):
    text = page.read_text(encoding="utf-8")
    assert text == filled(text), "run python tools/figures.py"


def test_the_readme_has_figures_at_all():
    assert "bundled" in {mark[2] for mark in MARK.finditer(pages()[0].read_text(encoding="utf-8"))}


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_a_results_file_names_the_one_command_that_makes_it(path):
    words = shlex.split(json.loads(path.read_text(encoding="utf-8"))["command"])
    if words[0] == "fewstep":
        assert re.search(rf"^def {words[1]}\(", (ROOT / "fewstep/cli.py").read_text(), re.MULTILINE)
        return
    assert words[0] == "python"
    script = f"{words[2].replace('.', '/')}.py" if words[1] == "-m" else words[1]
    assert (ROOT / script).is_file()

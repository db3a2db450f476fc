"""Every figure in the README and the docs is that of its committed results file."""

import pytest

from tools.figures import MARK, filled, pages


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_a_pages_figures_are_those_of_its_results(page):
    text = page.read_text(encoding="utf-8")
    assert text == filled(text), "run python tools/figures.py"


def test_the_readme_has_figures_at_all():
    assert "bundled" in {mark[2] for mark in MARK.finditer(pages()[0].read_text(encoding="utf-8"))}

"""The page of papers names files and functions that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")


def test_every_file_that_the_page_names_is_there_with_what_it_names():
    for line in PAGE.splitlines():
        for path, names in re.findall(r"`([\w/]+\.py)`(?:: ((?:`[\w.]+`(?:, )?)+))?", line):
            file = ROOT / path if path.startswith("recipes/") else ROOT / "fewstep" / path
            assert file.is_file(), path
            for name in re.findall(r"`([\w.]+)`", names):
                text = file.read_text(encoding="utf-8")
                for part in name.split("."):
                    assert re.search(rf"\b{part}\b", text), f"{path} has no {name}"

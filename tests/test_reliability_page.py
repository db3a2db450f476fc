"""The page on reliability names tests that there are."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_test_that_the_page_names_exists():
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    code = "".join(f.read_text(encoding="utf-8") for f in (ROOT / "tests").rglob("test_*.py"))
    names = re.findall(r"`(test_\w+)`", page)
    assert len(names) > 30
    assert not [name for name in names if f"def {name}(" not in code]
    assert all((ROOT / file).is_file() for file in re.findall(r"`(tests/\S+\.py)`", page))

"""The project's own files agree with each other and name nothing of the machine they come from."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import fewstep

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"

OF_A_MACHINE = re.compile(
    r"(?<![\w.<>~*-])/(?:home|root|work|workspace|opt|Users)/[\w.]"  # somebody's folder
    r"|\.\./+shared\b"  # a folder outside the project
    r"|\bhf_[A-Za-z0-9]{30,}|\bghp_[A-Za-z0-9]{30,}"  # a token
)


def tracked_files() -> list[Path]:
    """Return what git tracks or would track; skip the test in a copy without git."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for name in told.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def text_of(path: Path) -> str:
    """Return a file's text, or nothing where it is not text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def pages(nav: Any) -> Iterator[str]:
    """Yield every page that mkdocs.yml's nav names, however deep."""
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from pages(entry)


def test_there_is_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "version" not in project, "it is that of fewstep/__init__.py"
    assert version("fewstep") == fewstep.__version__, "install again"


def test_the_changelog_tells_of_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## [{fewstep.__version__}]" in changelog
    assert "\n## [Unreleased]" in changelog


def test_no_file_names_the_machine_it_was_made_on():
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in tracked_files()
        for match in OF_A_MACHINE.finditer(text_of(path))
    ]
    assert not found


@pytest.mark.parametrize("text", ["cd /{}/me", "'/{}/.cache'", "(/{}/x)", "\n/{}/x"])
@pytest.mark.parametrize("folder", ["home", "root", "opt"])
def test_the_search_for_machine_names_finds_them(text, folder):
    assert OF_A_MACHINE.search(text.format(folder)) is not None


@pytest.mark.parametrize("text", ["https://example.org/home/a", "site/work/x", "~/work/x"])
def test_the_search_for_machine_names_leaves_addresses_alone(text):
    assert not OF_A_MACHINE.search(text)


def test_every_page_is_in_the_navigation_once():
    nav = list(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    assert sorted(nav) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_every_decision_is_in_their_index():
    index = (DOCS / "decisions" / "index.md").read_text(encoding="utf-8")
    for page in (DOCS / "decisions").glob("0*.md"):
        assert f"]({page.name})" in index


def versions_in(name: str) -> dict[str, Version]:
    lines = (ROOT / "constraints" / name).read_text(encoding="utf-8").lower().splitlines()
    pairs = (line.split("==") for line in lines if "==" in line)
    return {package.replace("_", "-"): Version(number) for package, number in pairs}


def test_the_floor_is_pyprojects_and_the_middle_lies_between_it_and_today():
    floor, middle, current = (versions_in(f"{name}.txt") for name in ("floor", "middle", "current"))
    assert floor.keys() == middle.keys()
    for package, version_of_2025 in middle.items():
        assert floor[package] < version_of_2025 <= current[package], package
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for text in project["dependencies"]:
        requirement = Requirement(text)
        assert floor[requirement.name.lower().replace("_", "-")] in requirement.specifier, text


def test_the_constraints_pin_every_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = [project["project"]["dependencies"], *project["dependency-groups"].values()]
    pinned = (ROOT / "constraints" / "current.txt").read_text(encoding="utf-8").lower()
    for requirement in chain(*groups):
        name = re.split(r"[\[<>=!~; ]", requirement)[0].lower()
        assert re.search(rf"^{re.sub('[-_]', '[-_]', name)}==", pinned, re.MULTILINE), name

"""What is installed: every file of the package, by the wheel that the sdist makes; and the rest."""

import re
import tomllib
import zipfile

import pytest
import yaml

import fewstep
from tests.test_project import ROOT, tracked_files
from tools import install, newcomer

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.slow
def test_the_wheel_that_the_sdist_makes_holds_every_file_of_the_package(tmp_path):
    wheel = newcomer.build(tmp_path / "dist")
    assert wheel.name == f"fewstep-{fewstep.__version__}-py3-none-any.whl"
    ours = {str(path.relative_to(ROOT)) for path in tracked_files()}
    with zipfile.ZipFile(wheel) as archive:
        theirs = {name for name in archive.namelist() if name.startswith("fewstep/")}
        metadata = archive.read(f"fewstep-{fewstep.__version__}.dist-info/METADATA").decode()
    assert theirs == {name for name in ours if name.startswith("fewstep/")}
    assert all(f"Provides-Extra: {extra}" in metadata for extra in ("ui", "data", "gpu"))


def test_the_dockerfile_installs_what_there_is_for_both_devices():
    text = newcomer.DOCKERFILE.read_text(encoding="utf-8")
    torch, package = newcomer.commands(newcomer.DOCKERFILE)
    assert '"$TORCH_INDEX"' in torch
    assert next(r for r in PROJECT["dependencies"] if r.startswith("torch")) in torch
    extras = re.search(r"/src\[(.+?)\]", package)
    assert extras
    assert set(extras[1].split(",")) <= PROJECT["optional-dependencies"].keys()
    assert re.findall(r"AS (\w+)", text) == ["cpu", "cuda"]
    assert "ARG DEVICE=cpu" in text
    assert "FROM ${DEVICE}" in text
    assert "not built here" in text.lower()
    assert newcomer.variables(newcomer.DOCKERFILE) == {"TORCH_INDEX": install.CPU_WHEELS}


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == fewstep.__version__
    assert citation["license"] == PROJECT["license"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


@pytest.mark.parametrize(("extra", "group"), [("ui", "page"), ("openvino", "openvino")])
def test_an_extra_is_what_its_tests_run_with(extra, group):
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    assert set(PROJECT["optional-dependencies"][extra]) <= set(groups[group])

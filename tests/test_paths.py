"""Paths as people write them, and what is a path and what a name on the Hub."""

import re
import socket
import time

import pytest
from huggingface_hub import constants, file_download

from fewstep.config import load_config
from fewstep.errors import SettingError, UserError
from fewstep.models import hub
from fewstep.models.base import ModelError
from fewstep.models.hub import on_the_hub
from fewstep.models.loading import load_model, load_skeleton
from fewstep.student.load import read_artefact
from fewstep.student.sample import SampleOptions, generate
from tests.tiny import into_hub_cache, tiny_pipeline

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for module in (constants, file_download):  # older versions have a copy of it
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"), raising=False)


def path_of(value, *overrides):
    with open("c.toml", "w", encoding="utf-8") as file:
        file.write(f'[method]\nname = "cd"\n[data]\npath = {value}\n')
    return load_config("c.toml", overrides).data.path


@pytest.mark.parametrize(
    "value", [r'"C:\Users\me"', r'"D:\data\coco"', r'"C:\new\table"', r'"a\b"']
)
def test_a_backslash_in_double_quotes_is_told_of_single_quotes(value):
    with pytest.raises(SettingError, match=r"write a path in single quotes, or with / in place of"):
        path_of(value)


def test_other_mistakes_in_toml_are_not_put_down_to_backslashes():
    with pytest.raises(SettingError, match=r"is not TOML: [^:]*$"):
        path_of("coco")


def test_a_path_in_single_quotes_is_as_it_is_written():
    assert path_of(r"'C:\new\table'") == r"C:\new\table"


def test_a_tilde_is_the_users_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/someone")
    assert path_of("'~/coco'") == "/someone/coco"
    assert path_of("'x'", "data.path=~/coco", "model.base=~/sd") == "/someone/coco"
    assert load_config("c.toml", ["model.base=~/sd"]).model.base == "/someone/sd"


def test_a_name_whose_first_part_is_a_folder_here_is_a_path(tmp_path):
    assert on_the_hub("me/model")
    assert on_the_hub("stabilityai/stable-diffusion-2-1")
    for name in ("me", "stabilityai"):
        (tmp_path / name).mkdir()
    assert not any(map(on_the_hub, ("me/model", "./me", "runs/b", "/me/model", "a/b/c", "bundled")))
    assert on_the_hub("stabilityai/stable-diffusion-2-1"), "a folder of that name is often here"


def refuse(*_, **__):
    raise AssertionError("the Hub was asked")


@pytest.mark.parametrize("name", ["runs/b", "./runs/b", "mine/b", "no such thing"])
@pytest.mark.parametrize(
    "use",
    [
        load_model,
        load_skeleton,
        read_artefact,
        lambda name: generate(name, ["a star"], SampleOptions()),
    ],
    ids=["model", "skeleton", "artefact", "sample"],
)
def test_a_mistyped_path_is_not_looked_for_on_the_hub(monkeypatch, tmp_path, use, name):
    (tmp_path / "mine").mkdir()
    for function in ("hf_hub_download", "snapshot_download"):
        monkeypatch.setattr(hub, function, refuse)
    with pytest.raises(UserError, match=f"there is no file or folder {re.escape(name)}"):
        use(name)


@pytest.fixture(params=["offline", "no name server", "nobody listens"])
def out_of_reach(request, monkeypatch):
    """A machine that cannot ask the Hub, and the reason that it gives."""
    for proxy in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    if request.param == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        return "HF_HUB_OFFLINE"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    host = "127.0.0.1" if request.param == "nobody listens" else "hub.invalid"
    monkeypatch.setattr(constants, "ENDPOINT", f"http://{host}:{port}")
    return f"{host} cannot be reached"


@pytest.mark.parametrize(
    "use",
    [load_model, read_artefact, lambda name: generate(name, ["a star"], SampleOptions())],
    ids=["model", "artefact", "sample"],
)
def test_a_hub_that_cannot_be_asked_is_said_at_once(out_of_reach, use):
    started = time.monotonic()
    with pytest.raises(UserError) as refused:
        use("me/model")
    assert time.monotonic() - started < 3
    assert out_of_reach in str(refused.value)
    assert str(refused.value).count("me/model") <= 2, "one sentence, not one in another"
    assert "me/model was not downloaded before" in str(refused.value)


def test_what_was_downloaded_before_loads_without_the_hub(out_of_reach, tmp_path):
    into_hub_cache("me/tiny", tiny_pipeline(), tmp_path / "home", COMMIT)
    started = time.monotonic()
    model = load_model("me/tiny")
    assert time.monotonic() - started < 5
    assert (model.revision, model.fingerprint) == (COMMIT, load_model(tiny_pipeline()).fingerprint)


def test_a_folder_that_is_no_model_is_told_what_it_lacks(tmp_path):
    (tmp_path / "mine" / "b").mkdir(parents=True)
    with pytest.raises(ModelError, match=r"neither a diffusers folder .* nor a checkpoint file"):
        load_model("mine/b")

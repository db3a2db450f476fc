"""Paths as people write them, and what is a path and what a name on the Hub."""

import re
import shutil
import socket
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import constants, file_download
from PIL import Image

from fewstep.__main__ import main, with_home
from fewstep.config import DataSettings, load_config
from fewstep.data.pairs import open_source
from fewstep.errors import DataError, SettingError, UserError
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


def test_a_tilde_in_train_init_is_the_users_folder_and_backslashes_are_explained(monkeypatch):
    monkeypatch.setenv("HOME", "/someone")
    path_of("'x'")
    assert load_config("c.toml", ["train.init=~/runs/a"]).train.init == "/someone/runs/a"
    with pytest.raises(SettingError, match=r"train.init is 'a\\tb', .*in single quotes, or with /"):
        load_config("c.toml", [r'train.init="a\tb"'])


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--run=~/mine", "--run=/someone/mine"),
        ("~/mine", "/someone/mine"),
        ("--lora=~/ink.safetensors=0.5", "--lora=/someone/ink.safetensors=0.5"),
        ("~", "/someone"),
        ("~ a sketch", "~ a sketch"),
        ("a house\n~/b", "a house\n~/b"),
        ("--set=data.path=~/coco", "--set=data.path=~/coco"),
    ],
)
def test_a_tilde_on_the_command_line_is_what_a_shell_makes_of_it(monkeypatch, argument, expected):
    monkeypatch.setenv("HOME", "/someone")
    assert with_home(argument) == expected


def test_commands_read_and_write_below_the_users_folder(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "p.txt").write_text("a star\n")
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["fewstep", "data", "check", "~/p.txt"])
    with pytest.raises(SystemExit) as left:
        main()
    assert (left.value.code, "1 caption" in capsys.readouterr().out) == (0, True)


@pytest.mark.parametrize("use", ["mistyped", "unreachable"])
def test_a_data_set_is_not_looked_for_where_it_cannot_be(out_of_reach, monkeypatch, tmp_path, use):
    """Not for a minute: the Hub's server is tried once, and its library not at all."""
    pytest.importorskip("datasets")  # not timed
    tried, connect = [], socket.create_connection
    monkeypatch.setattr(
        hub.socket, "create_connection", lambda *a: (tried.append(a), connect(*a))[1]
    )
    hub._unreachable.cache_clear()
    (tmp_path / "mine").mkdir()
    started = time.monotonic()
    with pytest.raises(DataError) as refused:
        open_source(DataSettings(path="mine/coco" if use == "mistyped" else "me/coco"))
    assert time.monotonic() - started < 3
    assert len(tried) <= (use == "unreachable")
    expected = "which is no folder" if use == "mistyped" else out_of_reach
    assert expected in str(refused.value)
    if use == "unreachable":
        assert "me/coco was not downloaded before" in str(refused.value)


def test_a_data_set_that_was_downloaded_before_is_read_without_the_hub(
    out_of_reach, monkeypatch, tmp_path
):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "data")
    image = Image.new("RGB", (8, 8), "red")
    table = datasets.Dataset.from_dict({"image": [image], "text": ["a red square"]}).cast_column(
        "image", datasets.Image()
    )
    table.to_parquet(tmp_path / "train.parquet")
    loaded = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "train.parquet"), cache_dir=str(tmp_path / "made")
    )
    (arrow,) = {Path(file["filename"]) for file in loaded["train"].cache_files}
    there = tmp_path / "data" / "me___tiny" / "default" / "0.0.0" / COMMIT
    shutil.copytree(arrow.parent, there)
    (there / arrow.name).rename(there / "tiny-train.arrow")
    (source, _) = open_source(DataSettings(path="me/tiny"))
    assert source.captions(0) == ("a red square",)

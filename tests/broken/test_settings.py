"""Broken settings: each is refused by its name and its value, before anything is made."""

import pytest
from typer.testing import CliRunner

from fewstep.cli import app
from fewstep.config import load_config
from fewstep.errors import UserError
from fewstep.training.settings import check_settings
from tests.broken.checks import files_in, refused

METHOD = '[method]\nname = "cd"\n'


def checked(path, *overrides):
    config = load_config(path, overrides)
    check_settings(config)


TOML = {
    "no table of the method": ("[train]\nsteps = 3\n", "method", "missing"),
    "an empty file": ("", "method", "missing"),
    "a list for a file": ("steps = [1, 2", "is not TOML"),
    "JSON": ('{"method": {"name": "cd"}}', "is not TOML"),
    "YAML": ("method:\n  name: cd\n", "is not TOML"),
    "a table twice": (METHOD + METHOD, "is not TOML"),
    "a key twice": (METHOD + 'name = "ct"\n', "is not TOML"),
    "a bare word": ("[method]\nname = cd\n", "is not TOML"),
    "no value": ("[method]\nname =\n", "is not TOML"),
    "an open quote": ('[method]\nname = "cd\n', "is not TOML"),
    "an open table": ("[method\nname = 'cd'\n", "is not TOML"),
    "a control character": ("[method]\nname = 'c\x01d'\n", "is not TOML"),
    "a method that is a list": ('method = ["cd"]\n', "method is ['cd']", "table"),
    "tables in a list": ('[[method]]\nname = "cd"\n', "method is", "table"),
    "a table too deep": (METHOD + "[train.steps]\nvalue = 3\n", "train.steps", "integer"),
    "an unknown table": (METHOD + "[trian]\nsteps = 3\n", "trian", "did you mean train?"),
    "a key of another case": (METHOD + "[train]\nSteps = 3\n", "train.Steps", "steps"),
    "a date": (METHOD + "[train]\nsteps = 2020-01-01\n", "train.steps", "integer"),
    "a time": (METHOD + "[data]\nseed = 07:32:00\n", "data.seed", "integer"),
    "a method of another type": ("[method]\nname = 3\n", "method.name is 3", "known: "),
    "a method without a name": ("[method]\nnum_solver_steps = 40\n", "method.name is None"),
    "an empty name": ('[method]\nname = ""\n', "method.name is ''", "known: "),
    "lists in lists": (METHOD + "[train]\nsteps = " + "[" * 5000, "nested too deep"),
    "tables in tables": (METHOD + ".".join("a" * 3000) + " = 1", "nested too deep"),
    "a number of 5000 digits": (METHOD + "[train]\nsteps = " + "9" * 5000, "cannot be read"),
    "more steps than there is time": (METHOD + "[train]\nsteps = 1" + "0" * 30, "below 1e+09"),
    "an empty key": (METHOD + '[train]\n"" = 3\n', "unknown setting"),
}


@pytest.mark.parametrize("case", TOML)
def test_a_broken_file_of_settings_is_refused(tmp_path, case):
    text, *words = TOML[case]
    (path := tmp_path / "c.toml").write_text(text)
    refused(lambda: checked(path), *words)


BYTES = {
    "an image": b"\x89PNG\r\n\x1a\n\x00\x01",
    "a zip": b"PK\x03\x04\xff\xfe\x00",
    "null characters": METHOD.encode() + b"\0" * 20,
    "Latin-1": METHOD.encode() + "# für mich\n".encode("latin-1"),
}


@pytest.mark.parametrize("case", BYTES)
def test_a_file_that_is_no_text_is_refused(tmp_path, case):
    (path := tmp_path / "c.toml").write_bytes(BYTES[case])
    refused(lambda: checked(path), "c.toml", "UTF-8")


VALUES = [
    ("train.steps=-1", "train.steps is -1", "1 or more"),
    ("train.steps=2.5", "train.steps is 2.5", "integer"),
    ("train.steps=true", "train.steps is True", "integer"),
    ("train.steps=", "train.steps is ''", "integer"),
    ("train.steps=3\nseed=4", "train.steps is '3\\nseed=4'", "integer"),
    ("train.steps=" + "[" * 5000, "--set …=[[[", "nested too deep"),
    ("train.steps=" + "9" * 5000, "--set …=999", "cannot be read"),
    ("train.steps=[3]", "train.steps is [3]", "integer"),
    ("train.batch_size=0", "train.batch_size is 0", "1 or more"),
    ("train.accumulate=-4", "train.accumulate is -4", "1 or more"),
    ("train.processes=0", "train.processes is 0", "1 or more"),
    ("train.learning_rate=0", "train.learning_rate is 0", "above 0"),
    ("train.learning_rate=-1e-4", "train.learning_rate is -0.0001", "above 0"),
    ("train.learning_rate=1", "train.learning_rate is 1", "below 1"),
    ("train.learning_rate=nan", "train.learning_rate is nan", "finite"),
    ("train.learning_rate='3e-4'", "train.learning_rate is '3e-4'", "number"),
    ("train.warmup=-1", "train.warmup is -1", "0 or more"),
    ("train.decay=linear", "train.decay is 'linear'", "'cosine'"),
    ("train.weight_decay=-0.1", "train.weight_decay is -0.1", "0 or more"),
    ("train.weight_decay=inf", "train.weight_decay is inf", "finite"),
    ("train.max_grad_norm=0", "train.max_grad_norm is 0", "above 0"),
    ("train.ema=-0.1", "train.ema is -0.1", "0 or more"),
    ("train.ema=1.0", "train.ema is 1", "below 1"),
    ("train.target=teacher", "train.target is 'teacher'", "'student'"),
    ("train.compile=yes", "train.compile is 'yes'", "true or false"),
    ("train.compile=1", "train.compile is 1", "true or false"),
    ("train.seed=1.5", "train.seed is 1.5", "integer"),
    ("train.save_every=0", "train.save_every is 0", "1 or more"),
    ("train.keep_last=0", "train.keep_last is 0", "1 or more"),
    ("train.preview_every=-1", "train.preview_every is -1", "0 or more"),
    ("train.preview_prompts=a", "train.preview_prompts is 'a'", "list"),
    ("train.preview_prompts=[1]", "train.preview_prompts[0] is 1", "text"),
    ("train.trackers=['tensorboard']", "train.trackers[0] is 'tensorboard'", "'wandb'"),
    ("adapter.rank=1.0", "adapter.rank is 1.0", "integer"),
    ("adapter.alpha=0", "adapter.alpha is 0", "above 0"),
    ("adapter.dropout=1", "adapter.dropout is 1", "below 1"),
    ("adapter.preset=full", "adapter.preset is 'full'", "'all'"),
    ("adapter=none", "adapter is 'none'", "table"),
    ("data.path=", "data.path is ''", "folder"),
    ("data.path=3", "data.path is 3", "text"),
    ("data.resolution=0", "data.resolution is 0", "1 or more"),
    ("data.resolution=64.5", "data.resolution is 64.5", "integer"),
    ("data.num_pairs=0", "data.num_pairs is 0", "1 or more"),
    ("data.captions=none", "data.captions is 'none'", "'all'"),
    ("data.crop=center", "data.crop is 'center'", "'centre'"),
    ("data.flip=maybe", "data.flip is 'maybe'", "true or false"),
    ("data.max_upscale=0.5", "data.max_upscale is 0.5", "1 or more"),
    ("data.max_upscale=100", "data.max_upscale is 100", "below 100"),
    ("data.max_skipped=1", "data.max_skipped is 1", "below 1"),
    ("data.max_skipped=5%", "data.max_skipped is '5%'", "number"),
    ("data.caption_dropout=-0.1", "data.caption_dropout is -0.1", "0 or more"),
    ("data.workers=-1", "data.workers is -1", "0 or more"),
    ("data.shuffle_buffer=0", "data.shuffle_buffer is 0", "1 or more"),
    ("data.teacher_steps=0", "data.teacher_steps is 0", "1 or more"),
    ("model.base=", "model.base is ''", "folder"),
    ("model.hub_id=me", "model.hub_id is 'me'", "owner/name"),
    ("model.hub_id=a/b/c", "model.hub_id is 'a/b/c'", "owner/name"),
    ("model.allow_pickle=1", "model.allow_pickle is 1", "true or false"),
    ("model.precision=half", "model.precision is 'half'", "'fp16'"),
    ("teacher.guidance_scale=-1", "teacher.guidance_scale is -1", "1 (no guidance)"),
    ("teacher.guidance_scale=1e9", "teacher.guidance_scale is 1000000000", "1 (no guidance)"),
    ("teacher.guidance_scale=nan", "teacher.guidance_scale is nan", "finite"),
    ("teacher.guidance_scale=high", "teacher.guidance_scale is 'high'", "number"),
    ("method.name=lcm", "method.name is 'lcm'", "known: "),
    ("method.name=CD", "method.name is 'CD'", "known: "),
    ("method.num_solver_steps=4.5", "method.num_solver_steps is 4.5", "integer"),
    ("method.huber=1", "unknown setting method.huber"),
    ("method.spacing=log", "method.spacing is 'log'"),
]


@pytest.mark.parametrize(("override", "words"), [(v[0], v[1:]) for v in VALUES])
def test_a_value_that_cannot_be_used_is_refused(tmp_path, override, words):
    (path := tmp_path / "c.toml").write_text(METHOD)
    refused(lambda: checked(path, override), *words)


@pytest.mark.parametrize(
    "override",
    ["", "=", "=3", "train", "train.=3", ".=", "a.b.c=1", "data.path=\udcff"],
)
def test_an_override_that_is_none_is_refused(tmp_path, override):
    (path := tmp_path / "c.toml").write_text(METHOD)
    refused(lambda: checked(path, override), f"cannot read --set {override!r}", "table.key=value")


LINES = {
    "no such command": ["distil", "c.toml"],
    "no config": ["distill"],
    "no run": ["distill", "c.toml"],
    "an option that is none": ["sample", "bundled", "a red heart", "--sed", "3"],
    "a seed that is no number": ["sample", "bundled", "a red heart", "--seed", "three"],
    "steps that are no number": ["sample", "bundled", "a red heart", "--steps", "4.5"],
    "an option without a value": ["sample", "bundled", "a red heart", "--seed"],
    "a strength that is no number": ["sample", "bundled", "x", "--strength", "half"],
    "pairs that are no number": ["data", "check", "x", "--num-pairs", "all"],
    "one word too many": ["doctor", "please"],
}


@pytest.mark.parametrize("case", LINES)
def test_a_command_line_that_is_none_is_refused(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(app, LINES[case])
    assert told.exit_code == 2
    assert isinstance(told.exception, SystemExit)
    assert not files_in(tmp_path)


ORDERS = {
    "no source to evaluate": (["evaluate"], "runs and artefacts"),
    "two kinds of sources": (["evaluate", "a", "--images", "b"], "runs and artefacts"),
    "a LoRA of no strength": (["sample", "bundled", "x", "--lora", "a=b"], "--lora is 'a=b'"),
    "no prompt": (["sample", "bundled"], "there is no prompt"),
    "a blank prompt": (["sample", "bundled", "  "], "there is no prompt"),
    "a JPEG": (["sample", "bundled", "a", "-o", "a.jpg"], "--out is a.jpg"),
    "a resolution below 1": (["data", "check", "x", "--resolution", "0"], "data.resolution is 0"),
    "a negative number": (["data", "check", "x", "--num-pairs", "-1"], "data.num_pairs is -1"),
    "no path": (["data", "check", ""], "data.path is ''"),
    "a run that is this folder": (["distill", "c.toml", "--run", "."], "--run is empty"),
    "a strength alone": (["sample", "bundled", "a", "--strength", "0.5"], "--image"),
    "a teacher's LoRA": (["sample", "bundled", "a", "--lora", "a"], "--lora is for students"),
}


@pytest.mark.parametrize("case", ORDERS)
def test_a_command_that_cannot_be_done_is_refused(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    arguments, words = ORDERS[case]
    told = CliRunner().invoke(app, arguments)
    assert isinstance(told.exception, UserError)
    refused(lambda: (_ for _ in ()).throw(told.exception), words)
    assert not files_in(tmp_path)

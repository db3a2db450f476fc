"""Every line that says what to type next works as it is printed."""

import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fewstep import quickstart
from fewstep.config import ModelSettings, load_config, to_toml
from fewstep.console import next_command
from fewstep.errors import SettingError
from fewstep.student.load import read_contract
from tests.tiny import save_tiny_pipeline, tiny_config


def next_of(output):
    """Return the arguments of the one command that is to be typed next."""
    (line,) = re.findall(r"next: fewstep (.*)", output)
    return shlex.split(line)


@pytest.fixture
def local_model(tmp_path):
    """A model on this machine whose card names a license, in a folder with a space."""
    model = save_tiny_pipeline(tmp_path / "my models" / "sd")
    (model / "README.md").write_text("---\nlicense: openrail\n---\n")
    return model


def test_from_a_local_model_to_the_hub_each_next_line_works(typed, local_model):
    config = replace(tiny_config(steps=1), model=ModelSettings(str(local_model), "me/sd"))
    Path("mine.toml").write_text(to_toml(config))
    code, output = typed("distill", "mine.toml", "--run", "my runs/mine")
    assert code == 0, output
    code, output = typed(*next_of(output))
    assert (code, Path("out.png").exists()) == (0, True), output
    code, output = typed("push", "my runs/mine", "me/student", "--dry-run")
    assert (code, "fewstep export it, and push that for me/sd" in output) == (2, True), output
    code, output = typed("export", "my runs/mine", "-o", "my export")
    assert code == 0, output
    assert read_contract(Path("my export")).base["id"] == "me/sd"
    card = Path("my export/README.md").read_text()
    assert "base_model: me/sd" in card
    assert str(local_model) not in card + Path("my export/fewstep.json").read_text()
    code, output = typed(*next_of(output))
    assert (code, "nothing was uploaded" in output) == (0, True), output


def test_an_evaluation_leads_to_its_report(typed, local_model):
    Path("a.toml").write_text(
        to_toml(replace(tiny_config(steps=1), model=ModelSettings(str(local_model))))
    )
    Path("prompts.txt").write_text("\n".join(f"a star {i}" for i in range(5)))
    assert typed("distill", "a.toml", "--run", "run")[0] == 0
    code, output = typed(
        "evaluate", "run", "--protocol", "prompts", "--prompts", "prompts.txt", "-o", "the results"
    )
    assert code == 0, output
    code, output = typed(*next_of(output))
    assert (code, Path("report.html").exists()) == (0, True), output


def test_the_demo_ends_with_a_command_that_its_model_understands(typed, monkeypatch):
    def train(config, run):
        run.mkdir(parents=True)
        return iter(())

    monkeypatch.setattr(quickstart, "distill", train)
    monkeypatch.setattr(quickstart, "evaluate_sources", lambda *_: None)
    monkeypatch.setattr(quickstart, "print_results", lambda _: None)
    monkeypatch.setattr(quickstart, "write_report", lambda _, out: out)
    code, output = typed("quickstart", "--quick")
    last = output.strip().splitlines()[-1]
    assert (code, last.startswith("open runs/quickstart-quick/report.html; next: ")) == (0, True)
    command, source, prompt, *_ = next_of(last)
    assert (command, source) == ("sample", "runs/quickstart-quick/multi-boundary")
    from fewstep.student.sample import check_words

    check_words("bundled", [prompt])


def test_the_program_is_named_as_the_shell_finds_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    script = tmp_path / ".venv" / "bin" / "fewstep"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setattr(sys, "argv", [str(script)])
    assert next_command("doctor") == "next: .venv/bin/fewstep doctor"
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin")
    assert next_command("sample", "a b") == "next: fewstep sample 'a b'"
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    monkeypatch.setenv("PATH", "/usr/bin")
    assert next_command("doctor") == f"next: {script} doctor"
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "fewstep" / "__main__.py")])
    assert next_command("doctor") == f"next: {sys.executable} -m fewstep doctor"


@pytest.mark.parametrize("name", ["sd15", "me/sd/1", "/disk/sd", ""])
def test_what_is_no_id_on_the_hub_is_refused(tmp_path, name):
    (tmp_path / "a.toml").write_text(f"[model]\nhub_id = '{name}'\n[method]\nname = 'cd'\n")
    with pytest.raises(SettingError, match=r"model.hub_id is .*on the Hub, owner/name"):
        load_config(tmp_path / "a.toml")

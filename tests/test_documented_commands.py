"""Every command in README, docs, notebook and configs is one that the program takes."""

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from fewstep.cli import app
from fewstep.cli.examples import EXAMPLES

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "configs").glob("*.toml")),
    ROOT / "notebooks" / "consistency_distillation.ipynb",
]
HISTORY = {"CHANGELOG.md", "experiments.md", *(p.name for p in (ROOT / "docs/decisions").iterdir())}
"""The pages that tell what was, where a sentence may name what is no more."""

COMMAND = re.compile(r"(?:^[!$#]? ?|-- |&& |-m |: )(?:\S*/)?fewstep (?=[a-z-])(.+)")
TARGETS = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
GROUP = typer.main.get_command(app)


def text_of(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])


def code_lines(text: str) -> Iterator[str]:
    """Yield the lines of code blocks, fenced or indented, and of comments in configs."""
    lines, fenced = text.replace("\\\n", " ").splitlines(), False
    for line in lines:
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith(("    ", "# ")):
            yield line.strip()


def commands(text: str) -> Iterator[str]:
    """Yield each whole `fewstep …` of the code blocks; a synopsis with […] or … is none."""
    for line in code_lines(text):
        found = COMMAND.search(line)
        if found and not re.search(r"[…\[\]]", found[1]):
            yield re.split(r"\s+#|\s&&|\s;|`|\s{4,}(?!['\"-])", found[1])[0].strip()


def mentions(text: str) -> Iterator[str]:
    """Yield each `fewstep …` in a sentence, which may leave out what a command needs."""
    for found in re.findall(r"`fewstep ([a-z-][^`]*)`", text):
        if not re.search(r"[…\[\]|()]", found):
            yield " ".join(found.split())


def problem(arguments: list[str], whole: bool = True) -> str:
    """Return what the program would say against these arguments, or nothing."""
    command, name = GROUP, "fewstep"
    if arguments[0].startswith("-"):  # --version, or --install-completion, which would do it
        known = {"--help", "-h", *(option for one in GROUP.params for option in one.opts)}
        return "" if arguments[0] in known else f"there is no option {arguments[0]}"
    try:
        while hasattr(command, "commands") and arguments and not arguments[0].startswith("-"):
            name, *arguments = arguments
            if name not in command.commands:
                return f"there is no command {name}"
            command = command.commands[name]
        command.make_context(name, list(arguments))
    except Exception as error:  # of click's or of fewstep's own checks
        is_missing = type(error).__name__ == "MissingParameter"
        return "" if is_missing and not whole else f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_on_a_page_is_one_that_the_program_takes(page):
    text = text_of(page)
    for line in commands(text):
        assert not problem(shlex.split(line)), line
    for line in mentions(text) if page.name not in HISTORY else ():
        assert not problem(shlex.split(line), whole=False), line


def test_the_search_finds_commands_and_wrong_ones():
    fence = "```\nfewstep sample runs/mine \\\n  'a b' --seed 7  # note\n```\n"
    found = [shlex.split(c) for c in commands(f"{fence}\n    .venv/bin/fewstep nothing\n")]
    assert found == [["sample", "runs/mine", "a b", "--seed", "7"], ["nothing"]]
    assert problem(["nothing"]) == "there is no command nothing"
    assert problem(["--versoin"]) == "there is no option --versoin"
    assert "NoSuchOption" in problem(["sample", "runs/mine", "--sed", "7"])
    assert "MissingParameter" in problem(["distill", "a.toml"])
    assert not problem(["distill", "a.toml"], whole=False)
    assert not problem(["data", "check", "images"])
    assert sum(len(list(commands(text_of(page)))) for page in PAGES) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_and_script_on_a_page_exists(page):
    text = text_of(page)
    for line in code_lines(text):
        for target in re.findall(r"(?:^|\s)make ([a-z][a-z-]+)", line.partition("#")[0]):
            assert target in TARGETS, line
        if found := re.match(r"(?:\S*/)?python (-m )?([\w./]+)", line):
            name = found[2].replace(".", "/") if found[1] else found[2]
            paths = (ROOT / name, ROOT / f"{name}.py", ROOT / name / "__main__.py")
            is_ours = name.split("/")[0] in ("benchmarks", "tools", "recipes", "fewstep")
            assert not is_ours or any(path.exists() for path in paths), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_extra_on_a_page_exists(page):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extras in re.findall(r"(?:'fewstep|/src|\.)\[([a-z,]+)\]", text_of(page)):
        assert set(extras.split(",")) <= project["optional-dependencies"].keys(), extras


def all_commands() -> dict[str, object]:
    found = {}
    for name, command in GROUP.commands.items():
        found |= getattr(command, "commands", {name: command})
    return found


def test_every_command_has_an_example_below_its_help_that_it_takes():
    assert EXAMPLES.keys() == all_commands().keys()
    for name, lines in EXAMPLES.items():
        for line in lines:
            program, *arguments = shlex.split(line)
            assert (program, problem(arguments)) == ("fewstep", ""), line
            assert name in arguments[:2]
            assert line in all_commands()[name].epilog


def test_a_shell_completes_commands_and_options(monkeypatch, capsys):
    monkeypatch.setenv("_FEWSTEP_COMPLETE", "complete_bash")
    for words, completed in (
        ("fewstep sam", "sample"),
        ("fewstep sample --negative", "--negative-prompt"),
    ):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        with pytest.raises(SystemExit):
            app(prog_name="fewstep")
        assert completed in capsys.readouterr().out

"""Nothing that is read is run, and a token is written nowhere."""

import ast
from collections.abc import Iterator
from pathlib import Path

from fewstep.config import to_toml
from fewstep.evaluation.provenance import provenance
from tests.tiny import tiny_config

ROOT = Path(__file__).parents[1]
OWN = [f for folder in ("fewstep", "recipes", "tools", "benchmarks")
       for f in sorted((ROOT / folder).rglob("*.py"))]  # fmt: skip

RUNS_WHAT_IT_READS = {
    *("eval", "exec", "os.system", "marshal.loads", "shelve.open", "torch.hub.load"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load", "joblib.load", "yaml.load"),
}
UNPACKS = {"extract", "extractall", "unpack_archive"}


def calls() -> Iterator[tuple[str, str, dict[str, ast.expr]]]:
    """Yield every call in the code: its place, what is called, and the named arguments."""
    for file in OWN:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                place = f"{file.relative_to(ROOT)}:{node.lineno}"
                named = {word.arg: word.value for word in node.keywords if word.arg}
                yield place, ast.unparse(node.func), named


def is_true(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


def test_a_pickle_is_read_for_its_weights_alone():
    loads = [(place, named) for place, name, named in calls() if name == "torch.load"]
    assert loads, "there are some"
    assert not [place for place, named in loads if not is_true(named.get("weights_only"))]


def test_nothing_is_called_that_runs_what_it_reads():
    found = [place for place, name, named in calls()
             if name in RUNS_WHAT_IT_READS
             or (is_true(named.get("shell")) and place.startswith("fewstep/"))
             or "trust_remote_code" in named
             or is_true(named.get("allow_pickle"))]  # fmt: skip
    assert not found


def test_no_archive_is_unpacked_without_pythons_filter():
    unpacked = [
        place
        for place, name, named in calls()
        if name.rpartition(".")[2] in UNPACKS
        and not ("filter" in named and ast.unparse(named["filter"]) == "'data'")
    ]
    assert not unpacked


SECRETS = {name: f"the-secret-of-{name}" for name in
           ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")}  # fmt: skip


def test_a_token_is_written_nowhere(tmp_path, monkeypatch, typed):
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    config = tiny_config(steps=2, preview_every=2)
    (tmp_path / "config.toml").write_text(to_toml(config))
    commands = (
        ["distill", "config.toml", "--run", "runs/one"],
        ["sample", "runs/one", "a red heart", "--out", "image.png"],
        ["export", "runs/one", "--out", "export", "--license", "mit"],
        ["push", "export", "me/it", "--dry-run"],
    )
    for command in commands:
        code, output = typed(*command)
        assert code == (2 if command[0] == "push" else 0), output  # its base is not on the Hub
        assert "the-secret" not in output
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not [path for path in files if b"the-secret" in path.read_bytes()]
    assert "the-secret" not in str(provenance())

"""An audit tells known faults from packages that it could not look up."""

import json
import subprocess
from types import SimpleNamespace

import pytest

UNKNOWN = {"name": "a", "skip_reason": "Dependency not found on PyPI"}
FINE = {"name": "b", "version": "2", "vulns": []}
FAULT = {"id": "CVE-1", "fix_versions": ["4"]}
FAULTY = {"name": "c", "version": "3", "vulns": [FAULT]}
UNMENDED = {"name": "d", "version": "5", "vulns": [{"id": "CVE-2", "fix_versions": []}]}


@pytest.fixture
def audit(monkeypatch):
    monkeypatch.syspath_prepend("tools")
    import audit

    return audit


@pytest.mark.parametrize(
    ("packages", "message", "fails"),
    [
        ([UNKNOWN], "NOT AUDITED: no advisories of 1 packages can be reached from here", False),
        ([], "NOT AUDITED: no advisories of 0 packages can be reached from here", False),
        ([UNKNOWN, FINE], "1 of 2 packages audited, 0 known faults", False),
        ([FAULTY], "1 of 1 packages audited, 1 known faults: c 3: CVE-1, mended in 4", True),
        ([UNMENDED], "1 of 1 packages audited, 1 known faults: d 5: CVE-2, mended in no version "
                     "yet", False),
    ],
)  # fmt: skip
def test_a_report_fails_where_a_newer_version_mends_a_fault(audit, packages, message, fails):
    assert audit.verdict({"dependencies": packages}) == (message, fails)


def outcome(audit, monkeypatch, tmp_path, capsys, run):
    monkeypatch.setattr(audit.install, "create", lambda folder: folder / "python")
    monkeypatch.setattr(audit.install, "succeeds", lambda command: True)
    monkeypatch.setattr(audit.subprocess, "run", run)
    with pytest.raises(SystemExit) as left:
        audit.main(tmp_path)
    return bool(left.value.code), capsys.readouterr().out


def test_an_audit_without_an_answer_says_so_and_succeeds(audit, monkeypatch, tmp_path, capsys):
    def silent(command, timeout, **options):
        raise subprocess.TimeoutExpired(command, timeout)

    def broken(command, **options):
        return SimpleNamespace(stdout="", returncode=1)

    for run in (silent, broken):
        fails, told = outcome(audit, monkeypatch, tmp_path, capsys, run)
        assert not fails
        assert "NOT AUDITED" in told


def test_an_audit_with_a_fault_fails(audit, monkeypatch, tmp_path, capsys):
    def found(command, **options):
        return SimpleNamespace(stdout=json.dumps({"dependencies": [FAULTY]}), returncode=1)

    fails, told = outcome(audit, monkeypatch, tmp_path, capsys, found)
    assert fails
    assert "CVE-1" in told

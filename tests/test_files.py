"""What is written is there whole, or what was there before still is."""

import os
import signal
import subprocess
import sys

import pytest

from fewstep import files
from fewstep.errors import UserError
from fewstep.files import locked, write_file, write_folder


def filled(text):
    return lambda folder: write_file(folder / "file", text)


def contents(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_folder_is_replaced_and_leaves_nothing_beside(tmp_path):
    for text in ("old", "new"):
        write_folder(tmp_path / "run", filled(text))
    assert (tmp_path / "run" / "file").read_text() == "new"
    assert contents(tmp_path) == ["run", "run/file"]


@pytest.mark.parametrize("failing", [1, 2])
def test_the_old_folder_is_back_where_either_rename_fails(tmp_path, monkeypatch, failing):
    write_folder(tmp_path / "run", filled("old"))
    replace, calls = os.replace, []

    def broken(source, target):
        if source.is_dir():
            calls.append(source)
            if len(calls) == failing:
                raise OSError("the disk is gone for a moment")
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", broken)
    with pytest.raises(OSError, match="for a moment"):
        write_folder(tmp_path / "run", filled("new"))
    assert (tmp_path / "run" / "file").read_text() == "old"
    assert contents(tmp_path) == ["run", "run/file"]


def test_a_kill_between_the_renames_is_mended_the_next_time(tmp_path):
    write_folder(tmp_path / "run", filled("old"))
    os.replace(tmp_path / "run", tmp_path / ".run.old")

    def failing(folder):
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        write_folder(tmp_path / "run", failing)
    assert (tmp_path / "run" / "file").read_text() == "old"


def test_two_processes_do_not_write_into_the_same_file_beside(tmp_path, monkeypatch):
    beside, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: beside.append(old) or replace(old, new))
    for node, number in (("a", 1), ("a", 2), ("b", 1)):
        monkeypatch.setattr(files.socket, "gethostname", lambda node=node: node)
        monkeypatch.setattr(os, "getpid", lambda number=number: number)
        write_file(tmp_path / "file", f"{node}{number}")
        assert (tmp_path / "file").read_text() == f"{node}{number}"
    assert len(set(beside)) == 3


def test_a_folder_in_the_way_of_a_file_is_named(tmp_path):
    with pytest.raises(IsADirectoryError, match=f"is a folder; name a file: '{tmp_path}'"):
        write_file(tmp_path, "")


def test_every_file_of_a_folder_gets_the_mode_that_new_files_have(tmp_path):
    """safetensors writes files that their owner alone may read."""

    def fill(folder):
        (folder / "deep").mkdir()
        for name, mode in (("own", 0o600), ("deep/all", 0o666)):
            (folder / name).touch()
            (folder / name).chmod(mode)

    mask = os.umask(0o027)
    try:
        write_folder(tmp_path / "run", fill)
    finally:
        os.umask(mask)
    files_of = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert [oct(path.stat().st_mode & 0o777) for path in files_of] == ["0o640"] * 2


HOLD = """
import sys, time
from pathlib import Path
from fewstep.files import locked
with locked(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_held_by_one_process_until_it_ends_even_if_it_is_killed(tmp_path):
    folder = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="busy"), locked(folder, "busy"):
            pass
        holder.send_signal(signal.SIGKILL)
    for _ in range(2):
        with locked(folder, "busy"):
            pass

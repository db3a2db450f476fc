"""What is written is there whole, or what was there before still is."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fewstep import files
from fewstep.errors import UserError
from fewstep.files import NotWrittenError, locked, remove_unfinished, write_file, write_folder
from fewstep.models.loading import load_model
from fewstep.models.saving import save_pipeline
from fewstep.verify.plot import plot
from tests.disk import room_for
from tests.tiny import tiny_pipeline

ROOT = Path(__file__).parents[1]


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


def test_a_file_without_room_is_named_and_the_old_one_stays(tmp_path):
    write_file(tmp_path / "file", "old")
    with room_for(1000), pytest.raises(NotWrittenError) as error:
        write_file(tmp_path / "file", "new" * 1000)
    assert str(error.value) == (
        f"{tmp_path / 'file'} was not written: File too large; what was saved before is whole: "
        "make room, and run the same command again"
    )
    assert (tmp_path / "file").read_text() == "old"
    assert contents(tmp_path) == ["file"]


def test_a_folder_without_room_is_named_and_the_old_one_stays(tmp_path):
    write_folder(tmp_path / "run", filled("old"))
    with (
        room_for(1000),
        pytest.raises(NotWrittenError, match=f"^{tmp_path / 'run'} was not .*: File too large; "),
    ):
        write_folder(tmp_path / "run", filled("new" * 1000))
    assert (tmp_path / "run" / "file").read_text() == "old"
    assert contents(tmp_path) == ["run", "run/file"]


def test_a_disk_that_can_only_be_read_is_told(tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    told = "was not written: Read-only file system.*make it writable, or choose another place"
    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(NotWrittenError, match=f"^{tmp_path / 'file'} {told}"):
        write_file(tmp_path / "file", "new")
    monkeypatch.setattr(files.FileLock, "acquire", refuse)
    with pytest.raises(NotWrittenError, match=told), locked(tmp_path, "busy"):
        pass
    assert contents(tmp_path) == []


def test_a_plot_without_room_leaves_no_half_of_it(tmp_path):
    results = json.loads((ROOT / "benchmarks/results/verify.json").read_text())
    with room_for(1000), pytest.raises(NotWrittenError, match=r"verify\.png was not written"):
        plot(results, tmp_path / "verify.png")
    assert contents(tmp_path) == []


def test_a_diffusers_folder_without_room_is_told_as_any_other(tmp_path):
    family = load_model(tiny_pipeline())
    with room_for(10_000), pytest.raises(NotWrittenError, match=r"fused was not .*too large"):
        write_folder(
            tmp_path / "fused",
            lambda folder: save_pipeline(family.pipeline(family.network), folder),
        )
    assert contents(tmp_path) == []


def test_what_a_killed_process_left_unfinished_is_removed_and_nothing_else(tmp_path):
    host, ended = files.socket.gethostname(), subprocess.Popen(["true"])
    ended.wait()
    kept = [f".a.{host}.{os.getpid()}.part", f".a.{host}.1.part", f".a.elsewhere.{ended.pid}.part",
            "a", ".lock", "b.part"]  # fmt: skip
    (tmp_path / "checkpoints" / ".00000003.part").mkdir(parents=True)
    (tmp_path / "checkpoints" / ".00000003.part" / "trained").touch()
    for name in (*kept, f".a.{host}.{ended.pid}.part"):
        (tmp_path / name).touch()
    remove_unfinished(tmp_path)
    assert contents(tmp_path) == sorted([*kept, "checkpoints"])
    remove_unfinished(tmp_path / "missing")


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

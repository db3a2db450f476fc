"""Broken tables, captions, prompts and shards: each is refused by its file and its line."""

import json
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from fewstep.config import DataSettings
from fewstep.data.pairs import open_data
from fewstep.student.sample import gather_prompts
from tests.broken.checks import files_in, refused
from tests.data.samples import coco, content, folder_of, noise, shard


def opened(path, **settings):
    return open_data(DataSettings(path=str(path), **settings), 64)


def refused_and_untouched(folder: Path, path: Path, *words: str) -> None:
    before = files_in(folder)
    refused(lambda: opened(path), *words)
    assert files_in(folder) == before


def table_refused(folder, name, text, *words):
    """Refuse a folder of two images, and another folder, for the table beside them."""
    folder_of(folder, 2)
    (folder / "sub").mkdir()
    (folder / name).write_text(text)
    refused_and_untouched(folder, folder, name, *words)


CAPTIONS = {
    "empty": (b"", "has the caption ''"),
    "blank": (b" \n\t\r\n", "has the caption"),
    "a mark alone": (b"\xef\xbb\xbf", "has the caption"),
    "Latin-1": ("a café".encode("latin-1"), "not UTF-8"),
    "UTF-16": ("a cat".encode("utf-16"), "UTF-16"),
    "UTF-32": ("a cat".encode("utf-32"), "UTF-32"),
    "null characters": (b"a\0c\0a\0t\0", "null characters"),
    "an image": (content(noise(0)), "UTF-8"),
    "half a character": (b"a cat \xed\xa0\x80", "not UTF-8"),
    "a cut off character": ("a café".encode()[:-1], "not UTF-8"),
    "a book": (b"a cat " * 2000, "more than 4000"),
    "one line of a book": (b"a cat\n" + b"x" * 5000, "more than 4000"),
}


@pytest.mark.parametrize("case", CAPTIONS)
def test_a_broken_caption_is_refused(tmp_path, case):
    text, *words = CAPTIONS[case]
    folder_of(tmp_path, 2)
    (tmp_path / "001.txt").write_bytes(text)
    refused_and_untouched(tmp_path, tmp_path, "001", *words)


@pytest.mark.parametrize("case", [c for c in CAPTIONS if c not in ("empty", "blank")])
def test_a_broken_file_of_prompts_is_refused(tmp_path, case):
    text, *words = CAPTIONS[case]
    (path := tmp_path / "p.txt").write_bytes(text)
    words = ["holds no prompt"] if case == "a mark alone" else words
    refused(lambda: gather_prompts([], path), "p.txt", *words)
    refused_and_untouched(tmp_path, path, "p.txt", *words)


@pytest.mark.parametrize("case", ["a folder", "nothing", "a dangling link"])
def test_a_file_of_prompts_that_is_none_is_refused(tmp_path, case):
    path = tmp_path / "p.txt"
    if case == "a folder":
        path.mkdir()
    if case == "a dangling link":
        path.symlink_to(tmp_path / "gone")
    refused(lambda: gather_prompts([], path), "p.txt", "cannot read")
    refused(lambda: opened(path), "p.txt", "cannot read")


ROWS = {
    "a number": ("3", "not a JSON object"),
    "null": ("null", "not a JSON object"),
    "a list of rows": ('[{"file_name": "000.png", "text": "a"}]', "not a JSON object"),
    "no name": ('{"text": "a"}', "needs file_name"),
    "an empty name": ('{"file_name": "", "text": "a"}', "has no file_name"),
    "a name that is a number": ('{"file_name": 3, "text": "a"}', "has no file_name"),
    "a name that is a list": ('{"file_name": ["000.png"], "text": "a"}', "has no file_name"),
    "no caption": ('{"file_name": "000.png", "text": null}', "has no caption"),
    "a caption in a list": ('{"file_name": "000.png", "text": ["a"]}', "caption ['a']"),
    "a caption that is a table": ('{"file_name": "000.png", "text": {}}', "caption {}"),
    "a caption in the first row only": (
        '{"file_name": "000.png", "text": "a"}\n{"file_name": "001.png"}', "line 2", "no caption",
    ),
    "a name in the first row only": (
        '{"file_name": "000.png", "text": "a"}\n{"text": "b"}', "line 2", "no file_name",
    ),
    "an absolute name": ('{"file_name": "/etc/000.png", "text": "a"}', "leads out of"),
    "a folder's name": ('{"file_name": "sub", "text": "a"}', "not in"),
    "a null character in a name": ('{"file_name": "0\\u0000.png", "text": "a"}', "not in"),
    "a null character in a folder": ('{"file_name": "0\\u0000/a.png", "text": "a"}', "not in"),
    "a name of 5000 characters": ('{"file_name": "%s", "text": "a"}' % ("n" * 300), "not in"),
    "a folder's name of 300 characters": (
        '{"file_name": "%s/a.png", "text": "a"}' % ("n" * 300), "not in",
    ),
    "two objects in a line": ('{"file_name": "000.png"} {"text": "a"}', "line 1 is not JSON"),
    "single quotes": ("{'file_name': '000.png', 'text': 'a'}", "line 1 is not JSON"),
    "nothing but braces": ("{}", "needs file_name"),
}  # fmt: skip


@pytest.mark.parametrize("case", ROWS)
def test_a_broken_table_is_refused(tmp_path, case):
    table_refused(tmp_path, "metadata.jsonl", *ROWS[case])


CSV = {
    "a header alone": ("file_name,text\n", "has no rows"),
    "another header": ("image,words\n000.png,a\n", "needs file_name"),
    "no header": ("000.png,a\n001.png,b\n", "needs file_name"),
    "semicolons": ("file_name;text\n000.png;a\n", "needs file_name"),
    "a missing caption": ("file_name,text\n000.png\n", "line 2", "no caption"),
    "an empty caption": ("file_name,text\n000.png,\n", "line 2", "caption ''"),
    "an empty name": ("file_name,text\n,a\n", "line 2", "no file_name"),
    "an open quote": ('file_name,text\n000.png,"a\n', "not CSV"),
    "a field of 200 kB": ("file_name,text\n000.png," + "a" * 200_000, "not CSV"),
}


@pytest.mark.parametrize("case", CSV)
def test_a_broken_csv_is_refused(tmp_path, case):
    table_refused(tmp_path, "metadata.csv", *CSV[case])


COCO = {
    "a list": lambda t: [t],
    "images that are a table": lambda t: t | {"images": {}},
    "images that are a number": lambda t: t | {"images": 3},
    "images of numbers": lambda t: t | {"images": [1, 2]},
    "annotations that are text": lambda t: t | {"annotations": "none"},
    "an id that is a list": lambda t: t | {"images": [{"id": [1], "file_name": "a.jpg"}]},
    "an annotation's id that is a list": lambda t: t | {
        "annotations": [{"id": 1, "image_id": [1000], "caption": "a"}]
    },
    "ids of two types": lambda t: t | {
        "annotations": [*t["annotations"], {"id": "x", "image_id": "y", "caption": "a"}]
    },
    "an empty table": lambda t: {},
}  # fmt: skip


@pytest.mark.parametrize("case", COCO)
def test_a_broken_captions_file_is_refused(tmp_path, case):
    path = coco(tmp_path, 2)
    path.write_text(json.dumps(COCO[case](json.loads(path.read_text()))))
    refused_and_untouched(tmp_path, path, "captions_train2017.json")


PAIR = {"a.png": content(noise(0)), "a.txt": b"a"}


def header_of(member: tarfile.TarInfo, data: bytes = b"") -> bytes:
    file = BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.addfile(member, BytesIO(data))
    return file.getvalue()


def claiming(size: int) -> bytes:
    """Return a tar whose header claims a huge member that is not there."""
    member = tarfile.TarInfo("b.png")
    member.size = size
    return member.tobuf() + bytes(1024)


TARS = {
    "empty": lambda whole: b"",
    "zeros": lambda whole: bytes(10240),
    "text": lambda whole: b"not a tar\n" * 200,
    "a zip": lambda whole: b"PK\x03\x04" + bytes(2000),
    "gzip": lambda whole: __import__("gzip").compress(whole),
    "its first half": lambda whole: whole[: len(whole) // 2],
    "without its first block": lambda whole: whole[512:],
    "a header that claims a terabyte": lambda whole: claiming(2**40),
    "a header that claims less than nothing": lambda whole: claiming(-1),
    "text behind its end": lambda whole: whole + b"more" * 300,
    "two tars": lambda whole: whole + whole,
    "a damaged checksum": lambda whole: whole[:150] + b"777777" + whole[156:],
    "a size that is no number": lambda whole: whole[:124] + b"zzzzzzzzzzz" + whole[135:],
}


@pytest.mark.parametrize("case", TARS)
def test_a_broken_tar_is_refused(tmp_path, case):
    path = shard(tmp_path / "s.tar", PAIR)
    path.write_bytes(TARS[case](path.read_bytes()))
    refused_and_untouched(tmp_path, path, "s.tar")


MEMBERS = {
    "a caption alone": ({"a.txt": b"a"}, "no image"),
    "an image alone": ({"a.png": PAIR["a.png"]}, "no caption"),
    "nothing": ({}, "no image"),
    "text that is no caption": ({"readme.md": b"hello"}, "no image"),
    "an empty caption": (PAIR | {"a.txt": b""}, "caption ''"),
    "a caption of another encoding": (PAIR | {"a.txt": "é".encode("latin-1")}, "not UTF-8"),
    "a folder in a folder above": (PAIR | {"b/../../c.txt": b"c"}, "leads out of it"),
    "a pickle among the pairs": (PAIR | {"a.pickle": b"harmless"}, "a pickle"),
    "torch's pickle": (PAIR | {"a.pt": b"harmless"}, "a pickle"),
}


@pytest.mark.parametrize("case", MEMBERS)
def test_a_tar_of_the_wrong_things_is_refused(tmp_path, case):
    members, *words = MEMBERS[case]
    path = shard(tmp_path / "s.tar", members)
    refused_and_untouched(tmp_path, path, "s.tar", *words)

"""What a path is, is found by looking; what is wrong with it is said before any work."""

import errno
import json
import os
import tarfile
import unicodedata
from dataclasses import replace

import pytest

from fewstep.config import DataSettings, load_config
from fewstep.data.base import ImageError
from fewstep.data.captions import SampleErrors
from fewstep.data.coco import read_coco
from fewstep.data.hf_datasets import Rows
from fewstep.data.images import decode
from fewstep.data.pairs import ImagePairs, Prompts, open_data, open_source, subset
from fewstep.data.shards import Shards, find_shards, read_shards
from fewstep.errors import DataError, UserError
from fewstep.student.sample import gather_prompts
from tests.data.samples import (
    bomb,
    caption,
    coco,
    content,
    folder_of,
    noise,
    parquets,
    shard,
    shards,
    truncated,
)


def opened(path, **settings):
    return open_data(DataSettings(path=str(path), **settings), resolution=64)


def captions(pairs):
    return [pairs.captions(i) for i in range(len(pairs))]


def test_a_folder_with_caption_files(tmp_path):
    folder_of(tmp_path / "more", 2)
    content_of = content(noise(5), "WEBP")
    (tmp_path / "b.webp").write_bytes(content_of)
    (tmp_path / "b.caption").write_text(" ein schöner Hund\n", encoding="utf-8-sig")
    pairs = opened(tmp_path)
    assert captions(pairs) == [("ein schöner Hund",), ("image 0",), ("image 1",)]
    assert pairs.image(0).shape == (3, 64, 64)
    assert pairs.source.read(0) == content_of


def test_each_line_of_a_caption_file_is_a_caption_in_folders_and_in_shards(tmp_path):
    text = b"\n a red heart \r\n\r\ntwo stars\xe2\x80\xa8of gold\n"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.png").write_bytes(content(noise(0)))
    (tmp_path / "folder" / "a.txt").write_bytes(text)
    shard(tmp_path / "a.tar", {"a.png": content(noise(0)), "a.txt": text})
    for path in (tmp_path / "folder", tmp_path / "a.tar"):
        assert captions(opened(path)) == [("a red heart",)]
        every = captions(opened(path, captions="all"))
        assert every == [("a red heart", "two stars\u2028of gold")]


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_a_table_of_metadata(tmp_path, name):
    folder_of(tmp_path / "images", 3)
    rows = [(f"images/{i:03d}.png", f'a "quoted", caption {i}') for i in (2, 0, 1)]
    if name.endswith("csv"):
        lines = ["file_name,text"] + ['{},"{}"'.format(f, t.replace('"', '""')) for f, t in rows]
    else:
        lines = [json.dumps({"file_name": f, "text": t}) for f, t in rows]
    (tmp_path / name).write_text("\n".join(lines))
    for path in (tmp_path, tmp_path / name):
        pairs = opened(path)
        assert captions(pairs) == [(text,) for _, text in rows]
        assert pairs.source.read(0) == (tmp_path / "images" / "002.png").read_bytes()


def test_coco_gives_one_or_all_captions_in_the_order_of_their_ids(tmp_path):
    path = coco(tmp_path, 4)
    for where in (path, tmp_path):
        assert captions(opened(where)) == [(caption(2 * i),) for i in range(4)]
    every = captions(opened(path, captions="all"))
    assert every[2] == (caption(4), caption(5))
    assert opened(path).image(0).shape == (3, 64, 64)


def test_coco_is_a_seeded_subset_of_5000(tmp_path):
    source, usual = open_source(DataSettings(path=str(coco(tmp_path, 9))))
    assert usual == 5000
    chosen = [subset(source, 4, seed).files for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert list(chosen[0]) == sorted(chosen[0])
    assert len(opened(tmp_path, num_pairs=4)) == 4
    assert subset(source, 100, 0) is source


def test_coco_images_may_lie_elsewhere(tmp_path):
    path = coco(tmp_path / "a", 2)
    (tmp_path / "a" / "train2017").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"the images of .* set data.images"):
        read_coco(path)
    assert len(opened(path, images=str(tmp_path / "elsewhere"))) == 2


def test_shards_are_read_where_they_lie(tmp_path):
    folder = shards(tmp_path / "s", (3, 2, 1))
    for path in (folder, f"{folder}/{{0000..0002}}.tar"):
        pairs = opened(path)
        assert captions(pairs) == [(f"image {i}",) for i in range(6)]
        assert list(pairs.parts) == [3, 2, 1]
        assert all(pairs.source.read(i) == content(noise(i)) for i in range(6))
    assert captions(opened(folder / "0001.tar")) == [("image 3",), ("image 4",)]
    half = subset(open_source(DataSettings(path=str(folder)))[0], 3, 0)
    numbers = [int(half.captions(i)[0].split()[1]) for i in range(3)]
    assert list(half.parts) == [
        sum(first <= number < last for number in numbers)
        for first, last in ((0, 3), (3, 5), (5, 6))
    ]


def test_shards_are_looked_through_once(tmp_path, monkeypatch):
    folder, index = shards(tmp_path / "s", (3, 2)), tmp_path / "index"
    first = read_shards(find_shards(str(folder)), index)
    monkeypatch.setattr(tarfile, "open", None)
    again = read_shards(find_shards(str(folder)), index)
    assert again.places.tolist() == first.places.tolist()
    assert again.identity == first.identity
    monkeypatch.undo()
    shards(folder, (3, 3))
    assert len(read_shards(find_shards(str(folder)), index)) == 6, "a changed shard is looked at"


def test_prompts_alone_begin_again_where_more_pairs_are_asked_for(tmp_path):
    (tmp_path / "p.txt").write_text("a cat\n\n a dog \n")
    assert opened(tmp_path / "p.txt").prompts == ("a cat", "a dog")
    pairs = opened(tmp_path / "p.txt", num_pairs=3)
    assert isinstance(pairs, Prompts)
    assert captions(pairs) == [("a cat",), ("a dog",), ("a cat",)]


def test_the_identity_changes_with_all_that_the_pairs_depend_on(tmp_path):
    folder_of(tmp_path, 4)
    settings = ({}, {"num_pairs": 3}, {"num_pairs": 3, "seed": 1}, {"crop": "random"},
                {"max_upscale": 3.0}, {"captions": "all"}, {"buckets": True})  # fmt: skip
    identities = [opened(tmp_path, **s).identity for s in settings]
    (tmp_path / "000.txt").write_text("another caption")
    identities.append(opened(tmp_path).identity)
    noise(9).save(tmp_path / "001.png")
    identities.append(opened(tmp_path).identity)
    assert len(set(identities)) == len(identities)
    assert opened(tmp_path).identity == opened(tmp_path).identity


@pytest.mark.parametrize("data", [b"", truncated(), bomb(), b"no image"])
def test_a_broken_image_is_an_image_error_that_names_the_file(tmp_path, data):
    folder_of(tmp_path, 2)
    (tmp_path / "001.png").write_bytes(data)
    pairs = opened(tmp_path)
    assert isinstance(pairs, ImagePairs)
    assert pairs.image(0).isfinite().all()
    with pytest.raises(ImageError, match=r"001\.png: "):
        pairs.image(1)


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        (None, r"001.png has no caption: write it into .*001.txt"),
        (b" \n", r"001.png has the caption .*write one, or remove the image"),
        ("größer".encode("latin-1"), r"001.txt is not UTF-8.*save it as UTF-8"),
        (b"word " * 2000, r"001.png has 9999 characters, more than 4000.*Shorten it"),
    ],
)
def test_a_caption_that_is_none_is_an_error(tmp_path, caption, message):
    folder_of(tmp_path, 2)
    (tmp_path / "001.txt").unlink()
    if caption is not None:
        (tmp_path / "001.txt").write_bytes(caption)
    with pytest.raises(DataError, match=message):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"file_name": "000.png", "text": "a"', "line 1 is not JSON"),
        ('["000.png"]', "line 1 is not a JSON object"),
        ('{"file": "000.png"}', "has the columns file; it needs file_name and one of text"),
        ('{"file_name": "000.png", "text": ""}', "line 1 has the caption ''"),
        ('{"file_name": "000.png", "text": 5}', "line 1 has the caption 5"),
        ('{"file_name": "9.png", "text": "a"}', "names 9.png, which is not in"),
        ('{"file_name": "../x.png", "text": "a"}', "leads out of"),
        ("", "has no rows"),
    ],
)
def test_metadata_that_cannot_be_used_is_an_error(tmp_path, text, message):
    folder_of(tmp_path, 1)
    (tmp_path / "metadata.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        opened(tmp_path)


def test_coco_that_cannot_be_used_is_an_error(tmp_path):
    path = coco(tmp_path, 3)
    whole = json.loads(path.read_text())

    def refused(message, change):
        table = json.loads(json.dumps(whole))
        change(table)
        path.write_text(json.dumps(table))
        with pytest.raises(DataError, match=message):
            opened(path)

    refused("no COCO captions file", lambda t: t.pop("annotations"))
    refused("annotation 1 is of image 5, which is missing",
            lambda t: t["annotations"][0].update(image_id=5))  # fmt: skip
    refused(
        "names x.jpg, which is not in",
        lambda t: t["images"][0].update(file_name="x.jpg"),
    )
    refused("leads out", lambda t: t["images"][0].update(file_name="../../x.jpg"))
    refused("000000000000.jpg has no caption", lambda t: t.update(annotations=t["annotations"][2:]))
    refused("annotation 0 has the caption", lambda t: t["annotations"][1].update(caption=None) or
            t["annotations"][1].update(caption=" "))  # fmt: skip
    refused("gives 1 images the id of another", lambda t: t["images"][0].update(id=999))
    refused("names no image", lambda t: t.update(images=[], annotations=[]))
    path.write_text(json.dumps(whole)[:-20])
    with pytest.raises(DataError, match=r"is not JSON.*copied to its end"):
        opened(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [("/etc/a.png", "leads out of it"), ("../a.png", "leads out of it"),
     ("a.pkl", "a pickle, which can run code"), ("a.pth", "a pickle")],
)  # fmt: skip
def test_an_unsafe_shard_is_refused(tmp_path, name, message):
    shard(tmp_path / "a.tar", {"b.png": content(noise(0)), "b.txt": b"b", name: b"data"})
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "a.tar")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_a_shard_with_a_link_or_a_device_is_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(DataError, match="a link or device"):
        opened(tmp_path / "a.tar")


@pytest.mark.parametrize(
    "path", ["pipe:curl http://x/a.tar", "http://x/a.tar", "s3://x/{0..3}.tar"]
)
def test_no_command_is_run_and_no_address_opened(path):
    with pytest.raises(DataError, match="no command is run and no address is opened"):
        opened(path)


def test_a_damaged_shard_is_an_error(tmp_path):
    folder = shards(tmp_path, (2,))
    whole = (folder / "0000.tar").read_bytes()
    (folder / "0000.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut off inside|cannot read"):
        opened(folder)
    shard(folder / "0000.tar", {"a.png": content(noise(0))})
    with pytest.raises(DataError, match=r"a has no caption; add a.txt"):
        opened(folder)
    with pytest.raises(DataError, match="counts down"):
        find_shards("{5..3}.tar")
    with pytest.raises(DataError, match=r"1 of 2 shards are missing, such as .*0001.tar"):
        find_shards(f"{folder}/{{0000..0001}}.tar")
    shard(folder / "0000.tar", {"a.json": b"{}"})
    with pytest.raises(DataError, match="no image with a caption"):
        read_shards(find_shards(str(folder)))


@pytest.mark.parametrize(
    ("text", "message"),
    [(b" ", r"a\.txt has the caption"), ("größer".encode("latin-1"), r"a\.txt is not UTF-8"),
     (b"word " * 2000, r"a\.txt has 9999 characters")],
)  # fmt: skip
def test_a_caption_in_a_shard_that_is_none_is_an_error(tmp_path, text, message):
    shard(tmp_path / "a.tar", {"a.png": content(noise(0)), "a.txt": text})
    with pytest.raises(SampleErrors, match=message):
        opened(tmp_path / "a.tar")


def test_prompts_that_cannot_be_read_are_an_error(tmp_path):
    (tmp_path / "p.txt").write_bytes("größer".encode("latin-1"))
    with pytest.raises(DataError, match=r"p\.txt is not UTF-8"):
        opened(tmp_path / "p.txt")
    with pytest.raises(DataError, match=r"cannot read .*q\.txt: No such file"):
        opened(tmp_path / "q.txt")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_sampling_and_training_read_the_same_prompts(tmp_path, encoding):
    path = tmp_path / "p.txt"
    text = " one\u2028and\x85two\r\n\nthe cafe\u0301\n"
    path.write_bytes(text.encode(encoding))
    assert gather_prompts([], path) == ["one\u2028and\x85two", "the caf\xe9"]
    assert opened(path).prompts == tuple(gather_prompts([], path))
    assert opened(path).prompts == tuple(gather_prompts(text.split("\n"), None))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_text_of_another_encoding_is_refused_by_its_name(tmp_path, encoding):
    path, toml = tmp_path / "p.txt", tmp_path / "c.toml"
    path.write_text("a star\n", encoding=encoding)
    toml.write_text('[method]\nname = "cd"\n', encoding=encoding)
    reads = (opened, lambda file: gather_prompts([], file))
    for read, file in (*((read, path) for read in reads), (load_config, toml)):
        with pytest.raises(UserError, match=r"(is in UTF-|null characters, as UTF-16).*as UTF-8"):
            read(file)


def test_settings_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "c.toml").write_text('[method]\nname = "cd"\n', encoding="utf-8-sig")
    assert load_config(tmp_path / "c.toml").method == {"name": "cd"}


def zeroed(data: bytes, header: int) -> bytes:
    return data[:header] + bytes(512) + data[header + 512 :]


def flipped(data: bytes, header: int) -> bytes:
    return data[: header + 8] + bytes([data[header + 8] ^ 1]) + data[header + 9 :]


@pytest.mark.parametrize(
    "damage",
    [
        flipped,
        zeroed,
        lambda data, header: data[:header],
        lambda data, header: data[: header + 100],
        lambda data, header: data + data,
    ],
    ids=["a flipped bit", "a header of zeros", "cut between", "cut inside a header", "two tars"],
)
def test_a_shard_that_loses_pairs_is_refused(tmp_path, damage):
    file = shards(tmp_path, (4,)) / "0000.tar"
    with tarfile.open(file) as tar:
        third = tar.getmembers()[4].offset
    file.write_bytes(damage(file.read_bytes(), third))
    with pytest.raises(DataError, match=r"0000\.tar is damaged or cut off at byte \d+"):
        opened(tmp_path)


def test_every_caption_that_cannot_be_used_is_said(tmp_path):
    folder_of(tmp_path / "p", 4)
    (tmp_path / "p" / "001.txt").unlink()
    (tmp_path / "p" / "003.txt").write_bytes(b" ")
    with pytest.raises(SampleErrors, match="; 2 of 4 samples cannot be used, ") as told:
        opened(tmp_path / "p")
    assert [("001" in one, "003" in one) for one in told.value.reasons] == [
        (True, False),
        (False, True),
    ]


def test_a_caption_with_commas_needs_quotes(tmp_path):
    folder_of(tmp_path, 2)
    (tmp_path / "metadata.csv").write_text('file_name,text\n000.png,"a, b"\n001.png,a, b\n')
    with pytest.raises(DataError, match=r"line 3 has more fields than the header; .*in quotes"):
        opened(tmp_path)
    (tmp_path / "metadata.csv").write_text('file_name,text\n000.png,"a "big" cat"\n')
    with pytest.raises(DataError, match=r"line 2 is not CSV"):
        opened(tmp_path)


def test_lines_end_where_an_editor_ends_them(tmp_path):
    folder_of(tmp_path, 1)
    text = "one\u2028and\x85two"
    (tmp_path / "p.txt").write_text(f"{text}\r\n\nthree", encoding="utf-8")
    assert opened(tmp_path / "p.txt").prompts == (text, "three")
    (tmp_path / "p.txt").write_bytes(b"one\n\n" + b"w" * 5000)
    with pytest.raises(DataError, match=r"p.txt line 3 has 5000"):
        opened(tmp_path / "p.txt")
    row = json.dumps({"file_name": "000.png", "text": text}, ensure_ascii=False)
    (tmp_path / "metadata.jsonl").write_text(row, encoding="utf-8")
    assert captions(opened(tmp_path)) == [(text,)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"file_name": "000.png", "text": "a \\ud800"}', r"line 1 holds .* half a character"),
        ("[" * 100_000, "line 1 is nested too deep"),
        ("1" * 5000, "line 1 is not JSON"),
    ],
)
def test_json_that_python_stumbles_over_is_refused(tmp_path, text, message):
    folder_of(tmp_path, 1)
    (tmp_path / "metadata.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        opened(tmp_path)


def test_names_of_every_kind_are_found(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / name).write_bytes(content(noise(0)))
    (tmp_path / name).with_suffix(".TXT").write_text("a cat")
    (tmp_path / "folder.png").mkdir()
    pairs = opened(tmp_path)
    assert captions(pairs) == [("a cat",)]
    assert pairs.identity


def test_what_cannot_be_opened_is_an_image_error(tmp_path):
    folder_of(tmp_path, 2)
    (tmp_path / "001.png").unlink()
    (tmp_path / "001.png").symlink_to(tmp_path / "gone")
    pairs = opened(tmp_path)
    assert pairs.identity
    with pytest.raises(ImageError, match=r"001\.png: it cannot be read"):
        pairs.image(1)
    (tmp_path / "001.png").unlink()
    (tmp_path / "001.png").mkdir()
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "001.png", "text": "a"}')
    with pytest.raises(DataError, match=r"names 001\.png, which is not in"):
        opened(tmp_path)


def test_nothing_is_left_out_without_a_word(tmp_path):
    folder_of(tmp_path / "p", 2)
    (tmp_path / "p" / "notes.txt").write_text("no caption of anything")
    (tmp_path / "p" / "000.json").write_text("beside an image")
    assert len(opened(tmp_path / "p")) == 2
    (tmp_path / "p" / "more").symlink_to(tmp_path)
    with pytest.raises(DataError, match=r"more is a link to a folder, which is not followed"):
        opened(tmp_path / "p")
    (tmp_path / "p" / "more").unlink()
    (tmp_path / "p" / "000.png").rename(tmp_path / "p" / "000.heic")
    with pytest.raises(DataError, match=r"000\.txt has no image .* beside it, only 000\.heic"):
        opened(tmp_path / "p")


@pytest.mark.parametrize(
    ("more", "message"),
    [({"b.heic": b"", "b.txt": b"b"}, r"b\.txt has no image .* only b\.heic"),
     ({"a.jpg": b""}, "two images called a;")],
)  # fmt: skip
def test_nothing_in_a_shard_is_left_out_without_a_word(tmp_path, more, message):
    whole = {
        "a.png": content(noise(0)),
        "a.txt": b"a",
        "a.json": b"{}",
        "._a.png": b"",
        "._a.txt": b"",
    }
    file = shard(tmp_path / "a.tar", whole)
    pairs = opened(file)
    assert len(pairs) == 1
    assert pairs.name(0) == f"{file}: a.png"
    shard(file, whole | more)
    with pytest.raises(DataError, match=message):
        opened(file)


def test_the_index_of_another_folders_shard_is_not_taken(tmp_path):
    one, other = (shards(tmp_path / name, (2,)) / "0000.tar" for name in "ab")
    members = {"000.txt": b"image 0", "000.png": content(noise(0))}
    shard(other, members | {"001.txt": b"image 1", "001.png": content(noise(1))})
    assert one.stat().st_size == other.stat().st_size
    for file in (one, other):
        os.utime(file, (1, 1))
        pairs = open_data(DataSettings(path=str(file)), 64, index=tmp_path / "index")
        assert captions(pairs) == [("image 0",), ("image 1",)]
    for path in (tmp_path / "index").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    assert len(open_data(DataSettings(path=str(one)), 64, index=tmp_path / "index")) == 2


def test_what_is_missing_here_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match=r"'data/coco', which is no folder.*no folder 'owner'"):
        opened("data/coco")


def test_settings_that_would_do_nothing_are_refused(tmp_path):
    folder_of(tmp_path, 1)
    (tmp_path / "p.txt").write_text("a cat")
    of_a_set = {"split": "val", "image_column": "x", "caption_column": "x"}
    of_images = {"buckets": True, "crop": "random", "captions": "all", "max_upscale": 3.0}
    generated = {"teacher_steps": 20}
    for path, settings in (
        (tmp_path / "p.txt", {"images": "x", "flip": True, **of_images, **of_a_set}),
        (tmp_path, {"images": "x", **generated, **of_a_set}),
        ("bundled", {"images": "x", **generated, **of_images, **of_a_set}),
    ):
        for name, value in settings.items():
            with pytest.raises(DataError, match=rf"data.{name} is .*, which does nothing"):
                opened(path, **{name: value})


def test_a_row_without_an_image_is_an_image_error():
    rows = Rows([{"image": None}, {"image": {"bytes": b"", "path": None}},
                 {"image": {"bytes": None, "path": "/no/such"}}], "image", "text", "d")  # fmt: skip
    for number, message in enumerate(("no image", "empty", "cannot be read")):
        with pytest.raises(ImageError, match=message):
            decode(rows.read(number))


def test_of_two_coco_files_the_one_with_images_is_taken(tmp_path):
    path = coco(tmp_path, 2)
    other = path.with_name("captions_val2017.json")
    other.write_text(path.read_text())
    assert len(opened(tmp_path)) == 2
    (tmp_path / "val2017").mkdir()
    assert len(opened(tmp_path)) == 2, "of the split train"
    with pytest.raises(SampleErrors, match=r"captions_val2017\.json names 000000000000\.jpg"):
        opened(tmp_path, split="validation")


def test_a_path_that_is_nothing_says_what_could_be_there(tmp_path):
    with pytest.raises(
        DataError, match=r"which is no folder, no captions .json.*give one of these"
    ):
        opened(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no images"):
        opened(tmp_path)
    (tmp_path / "p.txt").write_text("\n")
    with pytest.raises(DataError, match=r"p\.txt holds no prompt"):
        opened(tmp_path / "p.txt")


def test_a_saved_dataset_and_parquet_are_read(tmp_path):
    import datasets

    rows = {"image": [{"bytes": content(noise(i)), "path": None} for i in range(3)],
            "caption": [f"image {i}" for i in range(3)]}  # fmt: skip
    kinds = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    table = datasets.Dataset.from_dict(rows, features=kinds)
    datasets.DatasetDict({"train": table}).save_to_disk(tmp_path / "saved")
    (tmp_path / "parquet").mkdir()
    table.to_parquet(tmp_path / "parquet" / "a.parquet")
    for path in ("saved", "parquet"):
        pairs = opened(tmp_path / path)
        assert captions(pairs) == [(f"image {i}",) for i in range(3)]
        assert pairs.source.read(1) == content(noise(1))
        assert len(subset(pairs.source, 2, 0)) == 2
        assert opened(tmp_path / path).identity == pairs.identity
    (tmp_path / "parquet" / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"cannot read \S*a\.parquet as parquet"):
        opened(tmp_path / "parquet")
    with pytest.raises(DataError, match=r"data.split is 'test'.*has train"):
        opened(tmp_path / "saved", split="test")
    with pytest.raises(DataError, match=r"and none is 'text'; set .* one of caption$"):
        opened(tmp_path / "saved", caption_column="text")


@pytest.mark.parametrize(("names", "split", "kept"), [
    (("train-00000-of-00001", "test-00000-of-00001"), "train", [0]),
    (("train-00000-of-00001", "test-00000-of-00001"), "test", [1]),
    (("data/train-00000-of-00002", "data/train-00001-of-00002", "data/val-00000-of-00001"),
     "train", [0, 1]),
    (("my_train", "my_eval"), "test", [1]),
    (("a-train", "dev"), "val", [1]),
    (("a-train", "dev"), "validation", [1]),
    (("more", "TEST"), "train", [0]),
    (("0", "latest"), "train", [0, 1]),
    (("train-00000-of-00001", "holdout-00000-of-00001"), "train", [0]),
    (("train-00000-of-00001", "holdout-00000-of-00001"), "holdout", [1]),
])  # fmt: skip
def test_the_split_of_a_parquet_folder_is_told_by_its_names(tmp_path, names, split, kept):
    parquets(tmp_path, names)
    assert captions(opened(tmp_path, split=split)) == [(f"of file {i}",) for i in kept]
    with pytest.raises(DataError, match=r"^data\.split is 'nonsense'; .* has \w+"):
        opened(tmp_path, split="nonsense")


def test_a_folder_without_rows_to_train_on_says_which_splits_it_has(tmp_path):
    parquets(tmp_path, ("test", "val"))
    with pytest.raises(DataError, match=r"^data\.split is 'train'; .* has test, validation"):
        opened(tmp_path)


def test_the_split_of_a_saved_table_is_its_own(tmp_path):
    import datasets

    parquets(tmp_path / "of", ("a",))
    table = datasets.load_dataset("parquet", data_files=[str(tmp_path / "of" / "a.parquet")])
    for name, split in (("train", None), ("test", "test"), ("train", "train[:1]")):
        rows = datasets.Dataset(table["train"].data, info=table["train"].info, split=split)
        rows.save_to_disk(tmp_path / str(split))
        assert len(opened(tmp_path / str(split), split=name)) == 1
        with pytest.raises(DataError, match=rf"^data\.split is 'nonsense'; .* has {name}$"):
            opened(tmp_path / str(split), split="nonsense")


def test_shards_may_be_sent_to_another_process(tmp_path):
    import pickle

    source = read_shards(find_shards(str(shards(tmp_path, (2,)))))
    source.read(0)
    again: Shards = pickle.loads(pickle.dumps(replace(source)))
    assert again.read(1) == source.read(1)


def test_what_is_hidden_is_no_part_of_a_folder(tmp_path):
    folder_of(tmp_path, 1)
    folder_of(tmp_path / ".ipynb_checkpoints", 2)
    assert captions(opened(tmp_path)) == [("image 0",)]
    shards(tmp_path / "s", (1,))
    (tmp_path / "s" / "more.tar").mkdir()
    assert len(opened(tmp_path / "s")) == 1


def test_a_folder_that_cannot_be_read_is_not_left_out(tmp_path, monkeypatch):
    folder_of(tmp_path / "p", 1)
    scandir, locked = os.scandir, folder_of(tmp_path / "p" / "locked", 1)

    def refuse(path):
        if str(path) == str(locked):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"cannot read the folder .*locked: Permission denied"):
        opened(tmp_path / "p")


def test_a_file_that_may_never_end_is_not_read(tmp_path):
    folder_of(tmp_path, 2)
    (tmp_path / "001.png").unlink()
    os.mkfifo(tmp_path / "001.png")
    with pytest.raises(ImageError, match=r"001\.png: it cannot be read: it is a pipe"):
        opened(tmp_path).image(1)
    (tmp_path / "001.png").unlink()
    (tmp_path / "001.png").touch()
    os.truncate(tmp_path / "001.png", 3 * 2**30)
    with pytest.raises(ImageError, match="it has more than 1073 MB"):
        opened(tmp_path).image(1)
    (tmp_path / "000.txt").unlink()
    os.mkfifo(tmp_path / "000.txt")
    with pytest.raises(DataError, match=r"cannot read .*000\.txt: it is a pipe"):
        opened(tmp_path)


@pytest.mark.parametrize(("on_disk", "named"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_an_accent_is_the_same_in_both_spellings(tmp_path, on_disk, named):
    there, told = (unicodedata.normalize(form, "café") for form in (on_disk, named))
    (tmp_path / f"{there}.png").write_bytes(content(noise(0)))
    (tmp_path / f"{told}.txt").write_text(told, encoding="utf-8")
    assert captions(opened(tmp_path)) == [(unicodedata.normalize("NFC", "café"),)]
    row = {"file_name": f"{told}.png", "text": "a"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    assert opened(tmp_path).source.read(0) == content(noise(0))
    shard(tmp_path / "a.tar", {f"{there}.png": content(noise(0)), f"{told}.txt": told.encode()})
    assert len(opened(tmp_path / "a.tar")) == 1


def test_names_that_differ_in_their_spelling_alone_stay_apart(tmp_path):
    for form in ("NFC", "NFD"):
        name = unicodedata.normalize(form, "é")
        (tmp_path / f"{name}.png").write_bytes(content(noise(len(name))))
        (tmp_path / f"{name}.txt").write_text(form)
    pairs = opened(tmp_path)
    told = {pairs.captions(i)[0]: pairs.source.read(i) for i in range(2)}
    assert told == {"NFC": content(noise(1)), "NFD": content(noise(2))}


def test_what_belongs_to_no_pair_is_known(tmp_path):
    folder_of(tmp_path / "p", 2)
    (tmp_path / "p" / "lost.txt").write_text("its image is gone")
    assert opened(tmp_path / "p").source.unused == ("lost.txt",)
    (tmp_path / "p" / "metadata.jsonl").write_text('{"file_name": "001.png", "text": "a"}')
    assert opened(tmp_path / "p").source.unused == ("000.png",)
    path = coco(tmp_path / "coco", 2)
    noise(0).save(tmp_path / "coco" / "train2017" / "more.jpg")
    assert opened(path, num_pairs=1).source.unused == ("more.jpg",)


@pytest.mark.parametrize("path", ["C:\\images", "data:v2", "a\0b"])
def test_a_colon_makes_no_shards(path):
    with pytest.raises(DataError, match="which is no folder"):
        opened(path)


def test_captions_of_a_dataset_that_are_not_utf8_are_said(tmp_path):
    pytest.importorskip("datasets")
    import pyarrow
    from pyarrow import parquet

    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    image = {"bytes": content(noise(0)), "path": None}
    text = pyarrow.array([b"a cat", "größer".encode("latin-1")], pyarrow.binary())
    columns = {
        "image": pyarrow.array([image, image], kind),
        "text": pyarrow.Array.from_buffers(pyarrow.string(), 2, text.buffers()),
    }
    table = pyarrow.table(columns)
    features = {"image": {"_type": "Image"}, "text": {"dtype": "string", "_type": "Value"}}
    about = json.dumps({"info": {"features": features}})
    parquet.write_table(
        table.replace_schema_metadata({"huggingface": about}), tmp_path / "a.parquet"
    )
    with pytest.raises(DataError, match=r"row 1 is not UTF-8"):
        opened(tmp_path)

"""What lies beside images is no image; samples that lack something are left out and counted."""

import json
import os

import pytest
from typer.testing import CliRunner

from fewstep.cli import app
from fewstep.config import Config, DataSettings, load_config
from fewstep.console import finish
from fewstep.data.captions import SampleErrors
from fewstep.data.check import check_data
from fewstep.data.coco import read_coco
from fewstep.data.dataset import Dataset
from fewstep.data.pairs import open_data, open_source
from fewstep.errors import DataError, SettingError, UserError
from fewstep.evaluation.prompts import find_coco
from fewstep.models.loading import load_model
from tests.data.samples import coco, content, folder_of, noise, shard
from tests.tiny import tiny_pipeline

IMAGE = content(noise(0))


def opened(path, **settings):
    return open_data(DataSettings(path=str(path), **settings), resolution=64)


def captions(pairs):
    return [pairs.captions(i)[0] for i in range(len(pairs))]


def written(path, files: dict[str, bytes]):
    """Write files into a folder, or into a shard."""
    if path.suffix == ".tar":
        return shard(path, files)
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def pairs_of(*names: str) -> dict[str, bytes]:
    files = {}
    for name in names:
        files |= {f"{name}.jpg": IMAGE, f"{name}.txt": name.encode(), f"{name}.json": b"{}"}
    return files


FORTY = pairs_of(*(f"{i:02d}" for i in range(40)))
IN_BOTH = pytest.mark.parametrize("where", ["folder", "s.tar"])


@IN_BOTH
@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        ({"07.jpg": None}, r"07\.txt has no image \(\.png, .*\) beside it, only 07\.json"),
        (
            {"07.jpg": None, "07.heic": b""},
            r"07\.txt has no image .* only 07\.(json|heic) and 07\.",
        ),
        ({"07.txt": None}, r"07(\.jpg)? has no caption"),
        ({"07.txt": b""}, r"07\.(jpg|txt) has the caption ''"),
        ({"07.txt": b" \r\n"}, r"07\.(jpg|txt) has the caption ' "),
        ({"07.txt": b"\xff"}, r"07\.txt is not UTF-8"),
    ],
)
def test_a_sample_that_lacks_something_is_left_out_and_said(tmp_path, where, lost, reason):
    files = {name: data for name, data in (FORTY | lost).items() if data is not None}
    path = written(tmp_path / where, files)
    pairs = opened(path)
    assert captions(pairs) == [f"{i:02d}" for i in range(40) if i != 7]
    with pytest.raises(SampleErrors, match=reason) as told:
        opened(path, max_skipped=0.02)
    assert "1 of 40 samples cannot be used, and data.max_skipped = 0.02 allows 0" in str(told.value)
    assert "data.exclude" in str(told.value)


def test_what_is_left_out_changes_nothing_of_the_others(tmp_path):
    path = written(tmp_path / "folder", FORTY)
    whole = opened(path)
    written(path, {"zz.jpg": IMAGE, "zy.txt": b"no image", "zy.json": b"{}"})
    assert opened(path).identity == whole.identity
    assert len(opened(path).source.left_out) == 2


@IN_BOTH
def test_images_that_describe_another_are_no_samples(tmp_path, where):
    path = written(tmp_path / where, {
        **pairs_of("a", "b", "photo.v2", "x.y"),
        "a-masklabel.png": IMAGE,
        "b-CONDLABEL.PNG": IMAGE,
        "b-masklabel.png": IMAGE, "b-masklabel.txt": b"written by a captioning program",
        "b.depth.png": IMAGE,
        "x.y.seg.big.webp": IMAGE,
        "photo.png": IMAGE, "photo.txt": b"photo",
    })  # fmt: skip
    pairs = opened(path)
    assert sorted(captions(pairs)) == ["a", "b", "photo", "photo.v2", "x.y"]
    unused = {name.rpartition(": ")[2] for name in pairs.source.unused}
    assert {"a-masklabel.png", "b-CONDLABEL.PNG", "b-masklabel.png", "b.depth.png",
            "x.y.seg.big.webp"} <= unused  # fmt: skip
    assert not pairs.source.left_out


@pytest.mark.parametrize("name", ["a-masklabel.png", "b.depth.png"])
def test_what_describes_no_other_image_is_an_image(tmp_path, name):
    key = name.rpartition(".")[0]
    path = written(tmp_path, {name: IMAGE, f"{key}.txt": b"of its own"})
    assert captions(opened(path)) == ["of its own"]


@IN_BOTH
def test_files_are_left_out_by_patterns_of_their_names(tmp_path, where):
    masks = {f"{name}_mask.PNG": IMAGE for name in ("a", "b")}
    path = written(tmp_path / where, {**pairs_of("a", "b", "old/c"), **masks})
    index = tmp_path / "index"
    with pytest.raises(SampleErrors, match=r"_mask(\.PNG)? has no caption.*with data\.exclude"):
        opened(path)
    for patterns, kept in (
        (("*_mask.png",), ["a", "b", "old/c"]),
        (("*_MASK.*", "old/*"), ["a", "b"]),
        (("*_mask.png", "a.*"), ["b", "old/c"]),
    ):
        for _ in range(2):  # by looking at the shard, and by its index
            data = DataSettings(path=str(path), exclude=patterns)
            assert captions(open_data(data, 64, index=index)) == kept
    with pytest.raises(
        DataError, match=r"(holds no images that data.exclude|holds no image with a cap)"
    ):
        opened(path, exclude=("*",))


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_rows_of_a_table_are_left_out_like_files(tmp_path, suffix):
    folder_of(tmp_path, 40)
    rows = [{"file_name": f"{i:03d}.png", "text": "" if i == 5 else f"row {i}"} for i in range(40)]
    lines = [json.dumps(row) for row in rows]
    if suffix == "csv":
        lines = ["file_name,text", *(",".join(row.values()) for row in rows)]
    (tmp_path / f"metadata.{suffix}").write_text("\n".join(lines))
    (tmp_path / "006.png").unlink()
    kept = [f"row {i}" for i in range(40) if i not in (5, 6)]
    assert captions(opened(tmp_path)) == kept
    with pytest.raises(SampleErrors, match=r"line \d+ has the caption ''; .* names 006\.png, which "
                       "is not in .*; 2 of 40 samples"):  # fmt: skip
        opened(tmp_path, max_skipped=0.03)
    assert captions(opened(tmp_path, exclude=("00*.png",))) == kept[8:]
    with pytest.raises(DataError, match=r"holds no sample that data\.exclude = \['\*'\] leaves"):
        opened(tmp_path, exclude=("*",))


def test_images_of_coco_are_left_out_like_files(tmp_path):
    path = coco(tmp_path, 12)
    table = json.loads(path.read_text())
    table["annotations"][0]["caption"] = " "
    table["annotations"] = [a for a in table["annotations"] if a["image_id"] != 999]
    path.write_text(json.dumps(table))
    (tmp_path / "train2017" / f"{7:012d}.jpg").unlink()
    pairs = opened(path, max_skipped=0.3)
    assert [int(file.split(".")[0]) for file in pairs.source.files] == [
        i for i in range(12) if i not in (0, 1, 7)
    ]
    with pytest.raises(SampleErrors, match=r"annotation 1 has the caption ' '.*0001\.jpg has no "
                       r"caption.*0007\.jpg, which is not in .*3 of 12 samples"):  # fmt: skip
        opened(path)
    assert len(read_coco(path, exclude=("*1.jpg", "*7.jpg", "*0.jpg")).left_out) == 0


def test_measuring_takes_no_fewer_images_than_the_protocol_has(tmp_path):
    path = coco(tmp_path, 12)
    path = path.rename(path.with_name("captions_val2017.json"))
    (tmp_path / "train2017").rename(tmp_path / "val2017")
    assert len(find_coco("coco2017-5k", tmp_path).files) == 12
    (tmp_path / "val2017" / f"{7:012d}.jpg").unlink()
    with pytest.raises(UserError, match=r"0007\.jpg, which is not in .*needs all images"):
        find_coco("coco2017-5k", tmp_path)


def test_data_check_lists_what_is_wrong_in_every_shard_and_looks_at_the_images(tmp_path):
    for number in range(3):
        lost = {f"{number}.txt": b"", f"{number}.jpg": IMAGE, "k.txt": b"k", "k.json": b"{}",
                "m.txt": b"m", "m.jpg": b"broken"}  # fmt: skip
        shard(tmp_path / f"{number:05d}.tar", FORTY | lost)
    found = finish(check_data(DataSettings(path=str(tmp_path))))
    assert (found.pairs, len(found.left_out), len(found.broken)) == (3 * 41, 6, 3)
    told = CliRunner().invoke(app, ["data", "check", str(tmp_path)])
    assert told.exit_code == 2
    assert "6 without a caption or an image that can be used:\n" in told.stdout
    for number in range(3):
        shown = f"{number:05d}.tar: "
        assert f"{shown}{number}.txt has the caption ''" in told.stdout
        assert f"{shown}k.txt has no image" in told.stdout
        assert f"{shown}m.jpg: " in told.stdout


def test_data_check_of_captions_alone_that_are_all_empty_says_so(tmp_path):
    path = shard(tmp_path / "a.tar", {"a.txt": b"", "a.jpg": IMAGE})
    told = CliRunner().invoke(app, ["data", "check", str(path)])
    assert (told.exit_code, told.exception.__class__) == (2, SystemExit)
    assert "0 images, 0 captions" in told.stdout
    assert "a.txt has the caption ''" in told.stdout


def test_names_that_are_not_utf8_are_listed_and_noted(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    path = written(tmp_path / "p", {**FORTY, f"{name}.png": IMAGE, f"00.{name}.png": IMAGE})
    told = CliRunner().invoke(app, ["data", "check", str(path)])
    assert told.exit_code == 2
    assert r"caf\udce9.png has no caption" in told.stdout
    assert r"  00.caf\udce9.png" in told.stdout
    data = DataSettings(path=str(path), resolution=64)
    dataset = Dataset(data, load_model(tiny_pipeline()), 64, tmp_path / "cache", 4.0)
    assert "".join(dataset.notes).encode().count(rb"caf\udce9.png") == 2


def test_data_check_takes_the_patterns_of_a_config(tmp_path):
    written(tmp_path, {**pairs_of("a"), "a_mask.png": IMAGE, "a_seg.png": IMAGE})
    patterns = ("--exclude", "*_mask.png", "--exclude", "*_seg.png")
    assert CliRunner().invoke(app, ["data", "check", str(tmp_path)]).exit_code == 2
    assert CliRunner().invoke(app, ["data", "check", str(tmp_path), *patterns]).exit_code == 0


def test_data_check_says_of_each_kind_of_sidecar_how_many_there_are(tmp_path):
    many = {f"{i:02d}.{kind}.png": IMAGE for i in range(12) for kind in ("depth", "canny.v1")}
    many |= {f"{i:02d}-masklabel.png": IMAGE for i in range(3)} | {"notes.txt": b"read me"}
    path = written(tmp_path / "p", FORTY | many)
    told = CliRunner().invoke(app, ["data", "check", str(path)]).stdout
    assert told.partition("28 files beside the pairs:\n")[2].splitlines() == [
        "  notes.txt",
        "  3 like 00-masklabel.png; data.exclude = ['*-masklabel.png'] leaves them out",
        "  12 like 00.canny.v1.png; data.exclude = ['*.canny.v1.png'] leaves them out",
        "  12 like 00.depth.png; data.exclude = ['*.depth.png'] leaves them out",
    ]
    excluded = ("*-masklabel.png", "*.canny.v1.png", "*.depth.png")
    assert opened(path, exclude=excluded).source.unused == ("notes.txt",)
    assert len(opened(path, exclude=excluded)) == 40
    images = {f"{i:02d}.jpg": IMAGE for i in range(4)}
    rows = b"file_name,text\n00.jpg,a star\n"
    path = written(tmp_path / "t", images | {"metadata.csv": rows})
    told = CliRunner().invoke(app, ["data", "check", str(path)]).stdout
    assert told.endswith("\n3 files beside the pairs:\n  3 like 01.jpg\n"), "no pattern for those"


def test_what_is_left_out_is_said_before_encoding(tmp_path):
    path = written(tmp_path / "p", {**FORTY, "07.txt": b"", "07-masklabel.png": IMAGE})
    data = DataSettings(path=str(path), resolution=64)
    dataset = Dataset(data, load_model(tiny_pipeline()), 64, tmp_path / "cache", 4.0)
    left_out, unused = dataset.claim()
    assert left_out.startswith(f"1 sample left out, such as {path / '07.jpg'} has the caption ''")
    assert unused.startswith("1 file beside the pairs, such as 07-masklabel.png")
    assert dataset.notes == [left_out, unused], "a stream says it too"


def test_patterns_are_a_list_of_a_config(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('[method]\nname = "cd"\n[data]\npath = "p"\nexclude = ["*.depth.png", "old/*"]')
    assert load_config(path).data.exclude == ("*.depth.png", "old/*")
    with pytest.raises(SettingError, match=r"data\.exclude is '\*\.png'; it has to be a list"):
        load_config(path, ['data.exclude="*.png"'])
    assert Config({}).data.exclude == ()


@pytest.mark.parametrize("path", ["bundled", "p.txt"])
def test_patterns_that_would_do_nothing_are_refused(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("a cat")
    with pytest.raises(DataError, match=r"data\.exclude is \('\*',\), which does nothing"):
        opened(path, exclude=("*",))


def test_images_without_any_caption_are_one_sentence(tmp_path):
    for i in range(9):
        (tmp_path / f"{i}.PNG").write_bytes(IMAGE)
    with pytest.raises(DataError, match=r"holds 9 images, and none has a caption: write a \.txt"):
        opened(tmp_path)


def test_a_text_beside_nothing_is_a_note_in_a_folder_and_a_sample_in_a_shard(tmp_path):
    notes = {**pairs_of("a"), "readme.txt": b"about these images"}
    assert opened(written(tmp_path / "p", notes)).source.unused == ("readme.txt",)
    with pytest.raises(SampleErrors, match=r"readme\.txt has no image .* beside it, remove it"):
        opened(written(tmp_path / "s.tar", notes))


def test_an_index_of_a_shard_keeps_what_it_left_out(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    path = shard(tmp_path / "s.tar", FORTY | {"x.jpg": IMAGE, "07.depth.png": IMAGE})
    data = DataSettings(path=str(path))
    first, again = (open_source(data, tmp_path / "index")[0] for _ in range(2))
    assert first.left_out == again.left_out != ()
    assert first.unused == again.unused != ()
    assert first.identity == again.identity
    shard(path, {f"{name}.jpg": IMAGE})
    reason = f"{path}: {name} has no caption; add {name}.txt to the shard"
    for _ in range(2):
        assert open_source(data, tmp_path / "index")[0].left_out == (reason,)

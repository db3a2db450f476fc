"""Folders and parquet files as other programs write them are read, or refused with the reason."""

import json
from contextlib import suppress
from pathlib import Path

import pytest

from fewstep.config import DataSettings
from fewstep.data.captions import SampleErrors
from fewstep.data.count import count_pairs
from fewstep.data.pairs import open_data
from fewstep.data.splits import split_of, splits_in
from fewstep.errors import DataError
from tests.data.samples import content, folder_of, noise, parquets, shard

JPEGS = [content(noise(i), "JPEG") for i in range(7)]


def opened(path, **settings):
    return open_data(DataSettings(path=str(path), **settings), resolution=64)


def captions(pairs):
    return [pairs.captions(i)[0] for i in range(len(pairs))]


def contents(pairs):
    return [pairs.source.read(i) for i in range(len(pairs))]


def table(path: Path, columns: dict, kinds: dict | None = None) -> Path:
    """Write parquet as pyarrow and pandas do, without the note of the `datasets` library."""
    import pyarrow
    from pyarrow import parquet

    kinds = kinds or {}
    arrays = {name: pyarrow.array(column, kinds.get(name)) for name, column in columns.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(arrays), path)
    return path


STATUS = ["success", "success", "success", "success", "success", "failed_to_resize",
          "failed_to_download"]  # fmt: skip


def img2dataset_columns(numbers) -> dict:
    """Return img2dataset's columns; its third image has no caption, its last two failed."""
    got = [STATUS[i] == "success" for i in numbers]
    return {
        "caption": ["" if i == 2 else f"image {i}" for i in numbers],
        "url": [f"http://127.0.0.1/{i}.jpg" for i in numbers],
        "key": [f"{i // 4:05d}{i % 4:04d}" for i in numbers],
        "status": [STATUS[i] for i in numbers],
        "error_message": [None if g else "HTTP Error 404: Not Found" for g in got],
        "width": [64 if g else None for g in got],
        "height": [64 if g else None for g in got],
        "original_width": [96 if g else None for g in got],
        "original_height": [80 if g else None for g in got],
        "exif": ["{}" if g else None for g in got],
        "sha256": [f"{i:064x}" if g else None for i, g in zip(numbers, got, strict=True)],
    }


def img2dataset(folder: Path, output_format: str) -> Path:
    """Write what img2dataset 1.47.0 writes: shards of four, each with a table and statistics."""
    import pyarrow

    texts = pyarrow.string()
    for number, rows in enumerate((range(4), range(4, 7))):
        columns, name = img2dataset_columns(rows), f"{number:05d}"
        kinds = dict.fromkeys(("error_message", "exif", "sha256"), texts)
        if output_format == "parquet":
            columns["jpg"] = [JPEGS[i] if STATUS[i] == "success" else None for i in rows]
            kinds["jpg"] = pyarrow.binary()
        table(folder / f"{name}.parquet", columns, kinds)
        (folder / f"{name}_stats.json").write_text(json.dumps({"count": len(rows)}))
        files = {}
        for i, key in zip(rows, columns["key"], strict=True):
            if STATUS[i] == "success":
                about = json.dumps({"key": key, "status": "success"}).encode()
                text = b"" if i == 2 else f"image {i}".encode()
                files |= {f"{key}.jpg": JPEGS[i], f"{key}.json": about, f"{key}.txt": text}
        if output_format == "webdataset":
            shard(folder / f"{name}.tar", files)
        if output_format == "files":
            (folder / name).mkdir()
            for file, data in files.items():
                (folder / name / file).write_bytes(data)
    return folder


@pytest.mark.parametrize("output_format", ["files", "webdataset", "parquet"])
def test_what_img2dataset_writes_is_read(tmp_path, output_format):
    folder = img2dataset(tmp_path / "out", output_format)
    pairs = opened(folder, max_skipped=0.2)
    assert captions(pairs) == ["image 0", "image 1", "image 3", "image 4"]
    assert contents(pairs) == [JPEGS[i] for i in (0, 1, 3, 4)]
    assert pairs.image(0).shape == (3, 64, 64)
    with pytest.raises(SampleErrors, match=r"has the caption ''.*; 1 of 5 samples cannot be used"):
        opened(folder)


def test_what_img2dataset_could_not_download_is_no_sample(tmp_path):
    unused = opened(img2dataset(tmp_path, "parquet"), max_skipped=0.2).source.unused
    told = [name.rpartition(" row ")[2] for name in unused]
    assert told == ["5: failed_to_resize", "6: failed_to_download"]


def kinds_of_images():
    import pyarrow as pa

    binary, text = pa.binary(), pa.string()
    return {
        "bytes": binary,
        "large bytes (polars)": pa.large_binary(),
        "a struct": pa.struct([("bytes", binary), ("path", text)]),
        "a struct in another order": pa.struct([("path", text), ("bytes", binary)]),
        "a large struct (polars)": pa.struct(
            [("bytes", pa.large_binary()), ("path", pa.large_string())]
        ),
        "a struct of bytes alone": pa.struct([("bytes", binary)]),
    }


@pytest.mark.parametrize("kind", kinds_of_images())
def test_images_in_parquet_are_found_without_the_note_of_a_library(tmp_path, kind):
    kind = kinds_of_images()[kind]
    names = [field.name for field in kind] if hasattr(kind, "fields") else []
    images = [{"bytes": data, "path": "a.jpg"} if names else data for data in JPEGS]
    rows = [{name: image[name] for name in names} if names else image for image in images]
    columns = {"picture": [*rows, None], "text": [*(f"image {i}" for i in range(7)), "none"],
               "size": [1] * 8}  # fmt: skip
    file = table(tmp_path / "a.parquet", columns, {"picture": kind})
    for path in (tmp_path, file):
        pairs = opened(path)
        assert captions(pairs) == columns["text"]
        assert [pairs.source.read(i) for i in range(7)] == JPEGS
        assert opened(path).identity == pairs.identity != opened(path, num_pairs=3).identity
        with pytest.raises(DataError, match=r"row 7: the row has no image"):
            pairs.image(7)


def test_of_several_columns_of_images_one_has_to_be_named(tmp_path):
    import pyarrow

    columns = {"jpg": JPEGS[:2], "depth": JPEGS[2:4], "text": ["a", "b"], "url": ["x", "y"]}
    table(tmp_path / "a.parquet", columns, dict.fromkeys(("jpg", "depth"), pyarrow.binary()))
    with pytest.raises(DataError, match=r"has images in jpg, depth; set data\.image_column to one"):
        opened(tmp_path)
    assert contents(opened(tmp_path, image_column="depth")) == JPEGS[2:4]
    with pytest.raises(DataError, match=r"^data\.image_column is 'url', which holds no images: im"):
        opened(tmp_path, image_column="url")
    with pytest.raises(DataError, match=r"columns jpg, depth, text, url; set data\.image_column"):
        opened(tmp_path, image_column="png")


def test_parquet_without_images_says_that_it_has_none(tmp_path):
    file = table(tmp_path / "a.parquet", {"url": ["x"], "text": ["a"]})
    with pytest.raises(DataError, match="url, text, and none of them holds images: image files as"):
        opened(file)
    with pytest.raises(
        DataError, match=r"no images, and a\.parquet has no column of image files as bytes"
    ):
        opened(tmp_path)


@pytest.mark.parametrize(("names", "split", "kept"), [
    (("train/0000", "test/0000"), "train", [0]),
    (("train/0000", "test/0000"), "test", [1]),
    (("data/train/a", "data/train/b", "data/val/a"), "train", [0, 1]),
    (("training set/a", "validation-set/a"), "validation", [1]),
    (("train/test", "test/train"), "test", [1]),
    (("train/holdout-00000-of-00001", "a"), "holdout", [0]),
])  # fmt: skip
def test_the_split_of_parquet_files_is_told_by_their_folders(tmp_path, names, split, kept):
    parquets(tmp_path, names)
    (tmp_path / "._train.parquet").write_bytes(b"of another system")
    order = sorted(range(len(names)), key=lambda i: names[i])
    assert captions(opened(tmp_path, split=split)) == [f"of file {i}" for i in order if i in kept]
    with pytest.raises(DataError, match=r"^data\.split is 'nonsense'; .* has \w+"):
        opened(tmp_path, split="nonsense")


def test_a_parquet_file_is_one_split(tmp_path):
    parquets(tmp_path, ("test",))
    assert captions(opened(tmp_path / "test.parquet")) == ["of file 0"]
    with pytest.raises(DataError, match=r"data\.split is 'test', which does nothing"):
        opened(tmp_path / "test.parquet", split="test")


def test_parquet_files_further_below_say_which_folder_to_give(tmp_path):
    parquets(tmp_path, ("en/train/0", "fr/train/0"))
    with pytest.raises(DataError, match=r"no images, but en/train/0\.parquet; set data\.path to a"):
        opened(tmp_path)
    assert len(opened(tmp_path / "en")) == 1


def metadata(folder: Path, suffix: str, rows: dict[str, str]) -> None:
    """Write imagefolder's table of metadata, as people and pandas write it."""
    path = folder / f"metadata.{suffix}"
    if suffix == "parquet":
        table(path, {"file_name": list(rows), "text": list(rows.values())})
    elif suffix == "csv":
        path.write_text("\n".join(["file_name,text", *map(",".join, rows.items())]))
    else:
        lines = [json.dumps({"file_name": f, "text": t}) for f, t in rows.items()]
        path.write_text("\n".join(lines))


SUFFIXES = pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])


def images_alone(folder: Path, count: int) -> Path:
    folder_of(folder, count)
    for path in folder.glob("*.txt"):
        path.unlink()
    return folder


@SUFFIXES
def test_a_table_of_metadata_is_read_in_its_own_order(tmp_path, suffix):
    images_alone(tmp_path / "sub", 3)
    metadata(tmp_path, suffix, {"sub/002.png": "c", "sub/000.png": "NA", "sub/001.png": "007"})
    for path in (tmp_path, tmp_path / f"metadata.{suffix}"):
        pairs = opened(path)
        assert captions(pairs) == ["c", "NA", "007"]
        assert contents(pairs)[0] == content(noise(2))
    with pytest.raises(DataError, match=r"data\.split is 'test'"):
        opened(tmp_path, split="test")


@SUFFIXES
def test_tables_in_subfolders_are_read_each_beside_its_images(tmp_path, suffix):
    for name in ("cats", "dogs/old", ".hidden"):
        images_alone(tmp_path / name, 2)
        metadata(tmp_path / name, suffix, {"001.png": f"{name} 1", "000.png": f"{name} 0"})
    noise(0).save(tmp_path / "cats" / "more.png")
    (tmp_path / "README.txt").write_text("about cats and dogs")
    pairs = opened(tmp_path)
    assert captions(pairs) == ["cats 1", "cats 0", "dogs/old 1", "dogs/old 0"]
    assert contents(pairs) == [content(noise(i)) for i in (1, 0, 1, 0)]
    assert pairs.source.unused == ("cats/more.png",)
    assert captions(opened(tmp_path, exclude=("dogs/*", "001.png"))) == ["cats 0", "dogs/old 0"]
    with pytest.raises(DataError, match=r"^data\.split is 'test'; .* has train$"):
        opened(tmp_path, split="test")
    with pytest.raises(
        DataError, match=r"data\.images is 'x', and .* holds 2 tables, such as cats"
    ):
        opened(tmp_path, images="x")


def test_an_image_may_be_named_twice_by_one_table_of_several(tmp_path):
    for name in ("cats", "dogs"):
        images_alone(tmp_path / name, 1)
        lines = ["file_name,text", "000.png,one", "000.png,other"]
        (tmp_path / name / "metadata.csv").write_text("\n".join(lines))
    assert captions(opened(tmp_path)) == ["one", "other"] * 2


@pytest.mark.parametrize("name", ["captions.csv", "METADATA.CSV", "rows.jsonl", "x.parquet"])
def test_a_table_of_another_name_is_named_and_can_be_given(tmp_path, name):
    images_alone(tmp_path, 1)
    metadata(tmp_path, suffix := name.rpartition(".")[2].lower(), {"000.png": "of the table"})
    (tmp_path / f"metadata.{suffix}").rename(tmp_path / name)
    with pytest.raises(DataError, match=rf"holds 1 image, and none has a cap.*; if {name} is such"):
        opened(tmp_path)
    assert captions(opened(tmp_path / name)) == ["of the table"]


def test_parquet_files_without_rows_are_passed_over(tmp_path):
    import pyarrow

    kinds = {"jpg": pyarrow.binary(), "text": pyarrow.string()}
    for name, count in (("a", 0), ("b", 2)):
        columns = {"jpg": JPEGS[:count], "text": ["one", "two"][:count]}
        table(tmp_path / f"{name}.parquet", columns, kinds)
    assert captions(opened(tmp_path)) == ["one", "two"]
    with pytest.raises(DataError, match=r"a\.parquet has no rows$"):
        opened(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"png": JPEGS[:1], "text": ["b"]}, "column jpg is binary in A and missing in B"),
        ({"jpg": [{"bytes": JPEGS[0], "path": "b.jpg"}], "text": ["b"]},
         "column jpg is binary in A and struct<bytes: binary, path: string> in B"),
        ({"text": ["b"], "jpg": JPEGS[:1], "n": [{"deep": 1}]},
         "column n is missing in A and struct<deep: int64> in B"),
    ],
)  # fmt: skip
def test_parquet_that_the_library_cannot_join_says_what_differs(tmp_path, columns, reason):
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    table(files[0], {"jpg": JPEGS[:1], "text": ["a"]})
    table(files[1], columns)
    with pytest.raises(DataError) as told:
        opened(tmp_path)
    for file, letter in zip(files, "AB", strict=True):
        reason = reason.replace(f" in {letter}", f" in {file}")
    fix = "write them alike, or set data.path to one of the files"
    assert str(told.value) == f"the {reason}: {fix}"


@pytest.mark.parametrize("damage", ["the end", "the middle"])
def test_of_several_parquet_files_a_broken_one_is_named(tmp_path, damage):
    for name in ("a", "b", "c"):
        table(tmp_path / f"{name}.parquet", {"jpg": JPEGS, "text": [name] * 7})
    whole = (tmp_path / "b.parquet").read_bytes()
    half = len(whole) // 2
    broken = whole[:half] if damage == "the end" else whole[:4] + bytes(half) + whole[4 + half :]
    (tmp_path / "b.parquet").write_bytes(broken)
    with pytest.raises(DataError, match=r"^cannot read \S*b\.parquet as parquet \(.*; copy it"):
        opened(tmp_path)


@pytest.mark.parametrize("other", [JPEGS[0], None])
def test_a_row_of_parquet_that_has_a_path_alone_says_which(tmp_path, other):
    file = table(tmp_path / "a.parquet", {
        "image": [{"bytes": None, "path": "/away/7.jpg"}, {"bytes": other, "path": None}],
        "text": ["a", "b"]})  # fmt: skip
    reason = (
        r"row 0: the row holds no bytes, only the path '/away/7\.jpg': it cannot be read: No such "
        r"file or directory; write the images' bytes into the table"
    )
    with pytest.raises(DataError, match=reason):
        opened(file).image(0)


def test_a_column_of_captions_is_found_in_capitals_and_has_to_hold_text(tmp_path):
    columns = {"URL": ["x", "y"], "jpg": JPEGS[:2], "number": [1, 2]}
    file = table(tmp_path / "laion.parquet", columns | {"TEXT": ["a", "b"]})
    assert captions(opened(file)) == ["a", "b"]
    both = table(tmp_path / "both.parquet", columns | {"TEXT": ["a", "b"], "caption": ["c", "d"]})
    assert captions(opened(both)) == ["c", "d"], "a column of a usual name goes before"
    images_alone(tmp_path / "rows", 1)
    (tmp_path / "rows" / "metadata.csv").write_text("file_name,Text\n000.png,a star\n")
    assert captions(opened(tmp_path / "rows")) == ["a star"]
    file = table(tmp_path / "none.parquet", columns)
    with pytest.raises(DataError, match=r"usual name of captions; set data\.caption_column to one "
                       r"of URL$"):  # fmt: skip
        opened(file)
    for name, kind in {"number": "int64", "jpg": "binary"}.items():
        with pytest.raises(
            DataError, match=rf"the column {name} holds {kind} and no text; .* one of URL$"
        ):
            opened(file, caption_column=name)
    numbers = table(tmp_path / "numbers.parquet", {"jpg": JPEGS[:2], "text": [7, 8]})
    with pytest.raises(DataError, match=r"text holds int64 and no text; write a column of text$"):
        opened(numbers)


def test_captions_of_a_table_that_are_numbers_are_said_to_be_no_text(tmp_path):
    images_alone(tmp_path, 1)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "000.png", "text": 7}')
    with pytest.raises(SampleErrors, match=r"line 1 has the caption 7, which is no text; write it"):
        opened(tmp_path)


NAMES = ["train", "training", "my_val", "dev-2", "valid 1", "eval.old", "evaluation", "testing3",
         "trainer", "latest", "0", "devel", "contest_0", "pre-train.v2", "x0val1",
         "a.b.test"]  # fmt: skip


@pytest.mark.parametrize("place", ["{}.parquet", "{}/0.parquet"])
@pytest.mark.parametrize("name", [*NAMES, "training_test", "test of train", "val-eval"])
def test_the_split_of_a_name_is_that_of_the_library_or_an_error_where_it_has_two(
    tmp_path, place, name
):
    from datasets.data_files import get_data_patterns, resolve_pattern

    file = Path(place.format(name))
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    theirs = set()
    for split, patterns in get_data_patterns(str(tmp_path)).items():
        for pattern in patterns:
            with suppress(FileNotFoundError):
                theirs |= {str(split)} if resolve_pattern(pattern, str(tmp_path)) else set()
    if len(theirs) == 1:
        assert {split_of(file)} == theirs
    else:
        with pytest.raises(DataError, match=rf"is of {' and '.join(splits_in(name))} by its name"):
            split_of(file)
        assert set(splits_in(name)) == theirs


@SUFFIXES
def test_folders_of_splits_with_a_table_each_are_splits(tmp_path, suffix):
    for name in ("train", "val"):
        images_alone(tmp_path / name, 2)
        metadata(tmp_path / name, suffix, {"000.png": f"{name} 0", "001.png": f"{name} 1"})
    assert captions(opened(tmp_path)) == ["train 0", "train 1"]
    assert captions(opened(tmp_path, split="validation")) == ["val 0", "val 1"]
    with pytest.raises(DataError, match=r"^data\.split is 'test'; .* has train, validation$"):
        opened(tmp_path, split="test")


def test_two_tables_that_say_different_things_are_refused(tmp_path):
    images_alone(tmp_path / "sub", 2)
    metadata(tmp_path, "csv", {"sub/000.png": "by the folder above"})
    metadata(tmp_path / "sub", "csv", {"000.png": "by its own"})
    with pytest.raises(DataError, match=r"1 images below .* named twice, such as sub/000\.png, by"):
        opened(tmp_path)
    metadata(tmp_path / "sub", "csv", {"001.png": "by its own"})
    assert captions(opened(tmp_path)) == ["by the folder above", "by its own"]
    assert opened(tmp_path).source.unused == ()
    metadata(tmp_path, "jsonl", {"sub/000.png": "of another suffix"})
    with pytest.raises(DataError, match=r"holds metadata\.csv and metadata\.jsonl; set data\.path"):
        opened(tmp_path)
    assert captions(opened(tmp_path / "metadata.jsonl")) == ["of another suffix"]


def test_captions_beside_images_go_before_a_table_further_below(tmp_path):
    folder_of(tmp_path, 2)
    folder_of(tmp_path / "sub", 1)
    metadata(tmp_path / "sub", "csv", {"000.png": "of the table"})
    assert captions(opened(tmp_path)) == ["image 0", "image 1", "image 0"]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"image": ["000.png"], "text": ["a"]}, r"columns image, text; it needs file_name and one"),
        ({"file_name": ["000.png"], "words": ["a"]}, r"columns file_name, words; it needs file_na"),
        ({"file_name": [None, "000.png"], "text": ["a", "b"]}, r"parquet row 0 has no file_name"),
        ({"file_name": ["000.png"], "text": [None]}, r"parquet row 0 has no caption"),
        ({"file_name": ["../a.png"], "text": ["a"]}, r"names '\.\./a\.png', which leads out of"),
    ],
)
def test_a_broken_table_of_parquet_is_refused(tmp_path, columns, reason):
    images_alone(tmp_path, 1)
    table(tmp_path / "metadata.parquet", columns)
    with pytest.raises(DataError, match=reason):
        opened(tmp_path)
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"cannot read .*metadata\.parquet as parquet \(.*copy it"):
        opened(tmp_path)


def datumaro(folder: Path, subsets: dict[str, int]) -> Path:
    """Write what datumaro 1.13.12 exports as `coco_captions` with its images."""
    (folder / "annotations").mkdir(parents=True)
    for subset, count in subsets.items():
        (folder / "images" / subset).mkdir(parents=True)
        images, notes = [], []
        for i in range(count):
            name = f"{subset}{i}.jpg"
            (folder / "images" / subset / name).write_bytes(JPEGS[i])
            images.append({"id": i + 1, "width": 96, "height": 80, "file_name": name, "license": 0,
                           "flickr_url": "", "coco_url": "", "date_captured": 0})  # fmt: skip
            for n, text in enumerate(("one", "other")):
                notes.append({"id": 2 * i + n + 1, "image_id": i + 1, "category_id": 0,
                              "caption": f"{text} of {subset} {i}"})  # fmt: skip
        about = {"licenses": [{"name": "", "id": 0, "url": ""}], "categories": []}
        path = folder / "annotations" / f"captions_{subset}.json"
        path.write_text(json.dumps(about | {"images": images, "annotations": notes}))
    return folder


def test_a_folder_of_kohya_is_read_with_the_latents_that_it_cached(tmp_path):
    for name, count in (("10_cat", 2), ("5_dog walking", 1)):
        folder_of(tmp_path / name, count)
        for path in (tmp_path / name).glob("*.png"):
            path.with_name(f"{path.stem}_0096x0080_sd.npz").write_bytes(b"PK")
            path.with_suffix(".npz").write_bytes(b"PK")
    pairs = opened(tmp_path)
    assert (captions(pairs), pairs.source.left_out) == (["image 0", "image 1", "image 0"], ())


def test_what_datumaro_writes_is_read_subset_by_subset(tmp_path):
    one = datumaro(tmp_path / "one", {"train": 3})
    assert captions(opened(one)) == [f"one of train {i}" for i in range(3)]
    assert contents(opened(one)) == JPEGS[:3]
    two = datumaro(tmp_path / "two", {"train": 2, "val": 3})
    assert captions(opened(two)) == [f"one of train {i}" for i in range(2)]
    assert captions(opened(two, split="val")) == [f"one of val {i}" for i in range(3)]
    assert count_pairs(DataSettings(path=str(two), split="val")) == 3
    for folder, has in ((two, "train, validation"), (one, "train")):
        with pytest.raises(DataError, match=rf"^data\.split is 'test'; .* has {has}$"):
            opened(folder, split="test")
    with pytest.raises(DataError, match=r"data\.split is 'val', which does nothing"):
        opened(two / "annotations" / "captions_val.json", split="val")
    three = datumaro(tmp_path / "three", {"cats": 1, "dogs": 1})
    with pytest.raises(DataError, match=r"holds 2 files of captions; set data\.path to one of /.*"):
        opened(three)
    alone = datumaro(tmp_path / "alone", {"val": 2})
    assert captions(opened(alone)) == [f"one of val {i}" for i in range(2)]
    pairs = opened(two / "annotations" / "captions_val.json", captions="all")
    assert pairs.captions(1) == ("one of val 1", "other of val 1")
    assert len(pairs) == 3

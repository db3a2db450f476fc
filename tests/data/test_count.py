"""Pairs are counted as they would be read, without reading them."""

import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from fewstep.config import DataSettings
from fewstep.data.count import MANY_SHARDS, count_pairs
from fewstep.data.pairs import open_data
from fewstep.errors import DataError


def images(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (16, 16)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a box")
    return folder


def shards(folder: Path, count: int) -> Path:
    files = images(folder / "files", count)
    with tarfile.open(folder / "0.tar", "w") as tar:
        for file in sorted(files.iterdir()):
            tar.add(file, file.name)
    return folder / "0.tar"


def table(folder: Path, count: int) -> Path:
    lines = (json.dumps({"file_name": f"{n}.png", "text": "a box"}) for n in range(count))
    (images(folder, count) / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def coco(folder: Path, count: int) -> Path:
    images(folder / "train2017", count)
    notes = {
        "images": [{"id": n, "file_name": f"{n}.png"} for n in range(count)],
        "annotations": [{"id": n, "image_id": n, "caption": "a box"} for n in range(count)],
    }
    (folder / "captions_train2017.json").write_text(json.dumps(notes))
    return folder


def parquet(folder: Path, count: int) -> Path:
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    (path := folder / "rows").mkdir(parents=True)
    rows = {"image": [None] * count, "text": ["a box"] * count}
    features = Features({"image": ImageFeature(), "text": Value("string")})
    Dataset.from_dict(rows, features).to_parquet(str(path / "train-00000-of-00001.parquet"))
    return path


@pytest.mark.parametrize("make", [images, shards, table, coco, parquet])
@pytest.mark.parametrize(("wanted", "used"), [(None, 6), (5000, 6), (4, 4)])
def test_the_count_is_that_of_the_pairs_that_are_read(tmp_path, make, wanted, used):
    data = DataSettings(path=str(make(tmp_path / "data", 6)), num_pairs=wanted)
    assert count_pairs(data) == len(open_data(data, 16)) == used


def test_prompts_and_the_bundled_world_are_counted_as_they_are_used(tmp_path):
    (prompts := tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    for settings in ({"path": str(prompts)}, {"path": str(prompts), "num_pairs": 5}, {}):
        data = DataSettings(**settings)
        assert count_pairs(data) == len(open_data(data, 16))


def test_data_that_are_not_here_are_not_counted(tmp_path):
    for path in ("owner/name", str(tmp_path / "later")):
        assert count_pairs(DataSettings(path=path, num_pairs=7)) is None


def test_shards_are_counted_by_their_pattern_too(tmp_path):
    shutil.copy(shards(tmp_path / "shards", 3), tmp_path / "shards" / "1.tar")
    data = DataSettings(path=str(tmp_path / "shards" / "{0..1}.tar"), num_pairs=5000)
    assert count_pairs(data) == len(open_data(data, 16)) == 6
    assert count_pairs(replace(data, path=str(tmp_path / "{0..1}.tar"))) is None, "not here"
    with pytest.raises(DataError, match="1 of 3 shards are missing"):
        count_pairs(replace(data, path=data.path.replace("1}", "2}")))


def test_many_shards_are_not_looked_through(tmp_path):
    for number in range(MANY_SHARDS + 1):
        (tmp_path / f"{number:03d}.tar").write_bytes(b"")
    assert count_pairs(DataSettings(path=str(tmp_path))) is None


def test_data_that_cannot_be_used_are_refused_as_training_would(tmp_path):
    with pytest.raises(DataError, match="holds no images"):
        count_pairs(DataSettings(path=str(tmp_path)))
    (tmp_path / "train.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match=r"cannot read \S*train\.parquet as parquet"):
        count_pairs(DataSettings(path=str(tmp_path)))

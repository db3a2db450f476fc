#!/usr/bin/env bash
# One would guess: load_dataset("imagefolder") gives the captions of metadata.csv as they are written, and
# one row for each image of the folder. What happens: captions "NA" and "null" become None, a column
# of captions that look like numbers becomes numbers ("007" is 7), and an image without a row is left out without a
# word. A trainer that reads its captions this way trains some images on no caption, and others not at all.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0 pillow==12.3.0
cd "$folder"
HF_HUB_OFFLINE=1 HF_HOME="$folder/cache" "$folder/venv/bin/python" - <<'PYTHON'
from pathlib import Path

import datasets
from PIL import Image

datasets.disable_progress_bars()


def captions(name: str, rows: list[str], images: int) -> list[object]:
    folder = Path(name)
    folder.mkdir()
    for i in range(images):
        Image.new("RGB", (8, 8), (i, i, i)).save(folder / f"{i}.png")
    lines = [f"{i}.png,{caption}" for i, caption in enumerate(rows)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,text", *lines]) + "\n")
    return list(datasets.load_dataset("imagefolder", data_dir=name, split="train")["text"])


words = captions("words", ["a red heart", "NA", "null"], images=3)
numbers = captions("numbers", ["007", "1984"], images=2)
fewer = captions("fewer", ["a red heart", "a blue star"], images=4)
print(f"datasets {datasets.__version__}, imagefolder with metadata.csv")
print(f"  written 'a red heart', 'NA', 'null'; read {words}")
print(f"  written '007', '1984'; read {numbers}")
print(f"  4 images, 2 of them with a row; read {len(fewer)} pairs")
assert words == ["a red heart", None, None], words
assert numbers == [7, 1984] and not any(isinstance(n, str) for n in numbers), numbers
assert len(fewer) == 2, fewer
PYTHON

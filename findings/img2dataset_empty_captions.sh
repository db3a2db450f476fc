#!/usr/bin/env bash
# One would guess: an image without a caption is no success of img2dataset, or at least gets no caption file. What
# happens: it is written with an empty .txt (in parquet with the caption "" or none) and counted as a success, so that
# a trainer that reads key.jpg with key.txt trains on an empty prompt, as if the caption had been dropped.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet img2dataset==1.47.0 pillow==12.3.0
cd "$folder"
mkdir served
venv/bin/python - <<'PYTHON'
import pandas
from PIL import Image

for i in range(3):
    Image.new("RGB", (96, 80), (80 * i, 0, 0)).save(f"served/{i}.jpg")
urls = [f"http://127.0.0.1:8767/{i}.jpg" for i in range(3)]
pandas.DataFrame({"url": urls, "caption": ["a red heart", "", None]}).to_parquet("urls.parquet")
PYTHON
venv/bin/python -m http.server 8767 --bind 127.0.0.1 --directory served >/dev/null 2>&1 &
server=$!
sleep 2
for format in files parquet; do
    no_proxy=127.0.0.1 NO_ALBUMENTATIONS_UPDATE=1 venv/bin/img2dataset --url_list urls.parquet \
        --input_format parquet --url_col url --caption_col caption --output_format "$format" \
        --output_folder "$format" --processes_count 1 --thread_count 1 --image_size 64 >/dev/null 2>&1
done
venv/bin/python - <<'PYTHON'
import json
from importlib.metadata import version
from pathlib import Path

import pandas

texts = [path.read_text() for path in sorted(Path("files/00000").glob("*.txt"))]
stats = json.loads(Path("files/00000_stats.json").read_text())
captions = list(pandas.read_parquet("parquet/00000.parquet")["caption"])
print(f"img2dataset {version('img2dataset')}, three images with the captions 'a red heart', '' and none")
print(f"  files: {stats['successes']} of {stats['count']} successes, with the texts {texts}")
print(f"  parquet: the captions {captions}")
assert (stats["count"], stats["successes"]) == (3, 3), stats
assert texts == ["a red heart", "", ""], texts
assert captions == ["a red heart", "", None], captions
PYTHON

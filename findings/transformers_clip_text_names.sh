#!/usr/bin/env bash
# One would guess: a text encoder that one transformers 5 saved is read by another, or refused. What happens: 5.6 and
# later save CLIPTextModel without the prefix `text_model.` that all versions before expect. 5.5.4 finds none of its
# weights, fills in random ones, reports them and raises nothing, so that a pipeline samples noise words. Names with the
# prefix are read alike by both: rename the weights of what is meant for others.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 numpy==2.4.6
"$folder/venv/bin/pip" install --quiet --target "$folder/before" transformers==5.5.4 huggingface_hub==1.33.0
cat >"$folder/encoder.py" <<'PYTHON'
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

what, folder = sys.argv[1:]
if what == "write":
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    CLIPTextModel(CLIPTextConfig(vocab_size=20, num_attention_heads=2, **sizes)).save_pretrained(folder)
elif what == "rename":
    path = f"{folder}/model.safetensors"
    renamed = {f"text_model.{name}": value for name, value in load_file(path).items()}
    save_file(renamed, path, {"format": "pt"})
else:
    transformers.logging.set_verbosity_error()
    model, told = CLIPTextModel.from_pretrained(folder, output_loading_info=True)
    weights = {n.removeprefix("text_model."): w for n, w in model.state_dict().items()}
    saved = {n.removeprefix("text_model."): w for n, w in load_file(f"{folder}/model.safetensors").items()}
    same = sum(torch.equal(weights[name], value) for name, value in saved.items())
    missing = len(told["missing_keys"])
    print(f"transformers {transformers.__version__}: {missing} of {len(saved)} weights missing, {same} equal (some start equal)")
    sys.exit(same != len(saved))
PYTHON
run() { "$folder/venv/bin/python" "$folder/encoder.py" "$@" "$folder/model" 2>/dev/null; }
run write
run read
if PYTHONPATH="$folder/before" run read | tee "$folder/said"; then
  echo "the older version reads the new names now" >&2
  exit 1
fi
grep -q "20 of 20 weights missing" "$folder/said"
run rename
echo "with the prefix text_model.:"
run read
PYTHONPATH="$folder/before" run read

#!/usr/bin/env bash
# One would guess: a file that safetensors writes has the mode of every other new file, 0644 under the usual umask. What
# happens: save_file of 0.8.0 writes 0600, whatever the umask (0.6.2: 0644), and so does everything that saves through
# it, as save_pretrained of diffusers and transformers. A server of another user, or a container, reads the configs
# beside the weights and not the weights. Change the mode after saving, or write what `save` returns.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6
"$folder/venv/bin/pip" install --quiet --target "$folder/before" --no-deps safetensors==0.6.2
cat >"$folder/mode.py" <<'PYTHON'
import os
import sys

import numpy as np
import safetensors
from safetensors.numpy import save_file

os.umask(0o022)
path = f"{sys.argv[1]}/{safetensors.__version__}.safetensors"
save_file({"a": np.ones(2)}, path)
with open(f"{path}.txt", "w"):
    pass
modes = [os.stat(name).st_mode & 0o777 for name in (path, f"{path}.txt")]
print(f"safetensors {safetensors.__version__}: {modes[0]:o}, another new file: {modes[1]:o}")
expected = 0o600 if safetensors.__version__ == "0.8.0" else 0o644
assert modes == [expected, 0o644], "the modes have changed"
PYTHON
"$folder/venv/bin/python" "$folder/mode.py" "$folder"
PYTHONPATH="$folder/before" "$folder/venv/bin/python" "$folder/mode.py" "$folder"

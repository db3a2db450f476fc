#!/usr/bin/env bash
# One would guess: the same tensors with the same metadata make the same safetensors file, so that its
# sha256 identifies the weights. What happens: the order of the metadata in the header changes from call
# to call (tensors keep theirs), so the hash of a file with two or more metadata entries does not repeat.
# Compare tensors and metadata, or hash the tensors; a file's hash only says whether that one file changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import hashlib
import json

import numpy as np
import safetensors
from safetensors.numpy import load, save

tensors = {name: np.arange(4, dtype=np.float32) for name in "abcdefgh"}
metadata = {f"key_{i}": f"value {i}" for i in range(8)}
with_metadata = [save(tensors, metadata) for _ in range(20)]
without = {save(tensors) for _ in range(20)}


def header(content: bytes) -> dict:
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


hashes = {hashlib.sha256(content).hexdigest() for content in with_metadata}
orders = {tuple(header(content)["__metadata__"]) for content in with_metadata}
print(f"safetensors {safetensors.__version__}: 20 files of the same tensors and 8 metadata entries")
print(f"  different hashes: {len(hashes)}, different orders of the metadata: {len(orders)}")
print(f"  different files without metadata: {len(without)}")
assert all(header(content)["__metadata__"] == metadata for content in with_metadata)
assert all(set(load(content)) == set(tensors) for content in with_metadata)
assert len(hashes) > 1 and len(orders) > 1, "the order repeats now"
assert len(without) == 1, "files without metadata differ now"
PYTHON

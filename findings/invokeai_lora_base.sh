#!/usr/bin/env bash
# One would guess: InvokeAI tells what base model a LoRA is for by its layers, however they are named. What happens: it
# takes the first of a few keys of kohya's names, and the width of that layer's input. A LoRA of Stable Diffusion 1.5
# with self-attention and time embedding is 1280 wide there, which it takes for SDXL; one of self-attention alone is for
# no model; and so is each that is named as diffusers' save_lora_weights does, though there is a model class "LoRA,
# diffusers, SD 1". Train keys or values of cross-attention as well, and give it the file in kohya's names.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.40.0 transformers==5.5.4 safetensors==0.8.0 \
  numpy==1.26.4 onnxruntime==1.19.2 gguf==0.19.0 picklescan==1.0.5 pydantic-settings==2.12.0 blake3==1.0.11 \
  psutil==7.1.3 pyyaml==6.0.3
# it asks for gigabytes that this function does not need
"$folder/venv/bin/pip" install --quiet --no-deps invokeai==6.14.2
INVOKEAI_ROOT="$folder" "$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
from importlib.metadata import version

import torch
from invokeai.backend.model_manager.util.model_util import lora_token_vector_length

BASES = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 1280: "SDXL", 2048: "SDXL", None: "no model"}
"""How its model manager reads the width."""
block = "down_blocks.0.attentions.0.transformer_blocks.0"
LAYERS = {
    "cross": (f"{block}.attn2.to_k", 768),
    "self": (f"{block}.attn1.to_k", 320),
    "time": ("down_blocks.0.resnets.0.time_emb_proj", 1280),
}


def kohya(*layers):
    names = {"lora_unet_" + LAYERS[layer][0].replace(".", "_"): LAYERS[layer][1] for layer in layers}
    down = {f"{name}.lora_down.weight": torch.zeros(4, width) for name, width in names.items()}
    return down | {f"{name}.lora_up.weight": torch.zeros(320, 4) for name in names}


def diffusers(*layers):
    names = {f"unet.{LAYERS[layer][0]}": LAYERS[layer][1] for layer in layers}
    down = {f"{name}.lora_A.weight": torch.zeros(4, width) for name, width in names.items()}
    return down | {f"{name}.lora_B.weight": torch.zeros(320, 4) for name in names}


print(f"invokeai {version('invokeai')}, a LoRA of Stable Diffusion 1.5's shapes is read as one for")
found = {}
for form in (kohya, diffusers):
    for layers in (("cross", "self", "time"), ("self", "time"), ("self",)):
        found[form.__name__, layers] = base = BASES[lora_token_vector_length(form(*layers))]
        print(f"  names of {form.__name__}, {', '.join(layers)}: {base}")
assert list(found.values()) == ["Stable Diffusion 1", "SDXL", "no model", *["no model"] * 3], found
PYTHON

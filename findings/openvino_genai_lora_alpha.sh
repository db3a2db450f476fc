#!/usr/bin/env bash
# One would guess: OpenVINO GenAI scales a LoRA of kohya's names by alpha over rank, as ComfyUI, A1111, sd-scripts and
# diffusers do. What happens: it reads lora_down and lora_up and leaves `.alpha` out without a word. A file with alpha
# equal to the rank gives diffusers' image; one with alpha at a quarter of the rank is applied four times too strongly.
# Fold alpha into the weights, so that it equals the rank, before a LoRA goes there (seen with 2026.4.1).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.39.0 transformers==5.5.4 peft==0.20.0 \
  openvino==2026.4.1 openvino-genai==2026.4.1.0 openvino-tokenizers==2026.4.1.0 optimum-intel==2.2.0
"$folder/venv/bin/pip" uninstall --quiet --yes torchvision # not needed, and has to be built for the same torch
cat >"$folder/make.py" <<'PYTHON'
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from optimum.exporters.openvino import main_export
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

folder = Path(sys.argv[1])
torch.manual_seed(0)
letters = sorted(ByteLevel.alphabet())
tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
vocabulary = {token: i for i, token in enumerate(tokens)}
text = CLIPTextConfig(
    vocab_size=len(tokens), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
    bos_token_id=len(tokens) - 2, eos_token_id=len(tokens) - 1, pad_token_id=len(tokens) - 1,
)
unet = UNet2DConditionModel(
    sample_size=8, block_out_channels=(32, 32), layers_per_block=1, cross_attention_dim=32, attention_head_dim=2,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
)
StableDiffusionPipeline(
    AutoencoderKL(block_out_channels=(8,), norm_num_groups=4), CLIPTextModel(text),
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77), unet,
    DDIMScheduler(timestep_spacing="trailing", clip_sample=False), None, None, requires_safety_checker=False,
).save_pretrained(folder / "model")
main_export(str(folder / "model"), output=folder / "openvino", task="text-to-image", convert_tokenizer=True)
for alpha in (4, 1):
    tensors = {}
    for name, layer in unet.named_modules():
        if name.endswith(("to_q", "to_k", "to_v")):
            draw, key = torch.Generator().manual_seed(len(name)), "lora_unet_" + name.replace(".", "_")
            tensors[f"{key}.lora_down.weight"] = torch.randn(4, layer.in_features, generator=draw)
            tensors[f"{key}.lora_up.weight"] = torch.randn(layer.out_features, 4, generator=draw)
            tensors[f"{key}.alpha"] = torch.tensor(float(alpha))
    save_file(tensors, folder / f"alpha{alpha}.safetensors")
PYTHON
cat >"$folder/sample.py" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
import openvino_genai as genai
import torch
from diffusers import StableDiffusionPipeline

folder = Path(sys.argv[1])


def openvino(file=None):
    given = {"adapters": genai.AdapterConfig(genai.Adapter(str(folder / file)))} if file else {}
    pipe = genai.Text2ImagePipeline(str(folder / "openvino"), "CPU", INFERENCE_PRECISION_HINT="f32", **given)
    sizes = {"height": 64, "width": 64, "num_inference_steps": 2, "guidance_scale": 1.0}
    return np.array(pipe.generate("a heart", generator=genai.TorchGenerator(0), **sizes).data)[0].astype(int)


def diffusers(file=None):
    pipe = StableDiffusionPipeline.from_pretrained(folder / "model")
    pipe.set_progress_bar_config(disable=True)
    if file:
        pipe.load_lora_weights(str(folder), weight_name=file)
    sizes = {"height": 64, "width": 64, "num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "np"}
    return (pipe("a heart", generator=torch.Generator().manual_seed(0), **sizes).images[0] * 255).round().astype(int)


base, full, weak = diffusers(), diffusers("alpha4.safetensors"), diffusers("alpha1.safetensors")
print("diffusers: alpha 4 changes", abs(full - base).max(), "of 255; alpha 1 is off alpha 4 by", abs(full - weak).max())
its_base, its_full, its_weak = openvino(), openvino("alpha4.safetensors"), openvino("alpha1.safetensors")
print("openvino: off diffusers' base by", abs(its_base - base).max(), "and alpha 4 by", abs(its_full - full).max())
print("openvino: alpha 1 is off its alpha 4 by", abs(its_full - its_weak).max(), "and off diffusers' by", abs(its_weak - weak).max())
is_ignored = abs(its_full - its_weak).max() == 0 and abs(full - weak).max() > 10
sys.exit(0 if is_ignored and abs(its_full - full).max() <= 2 else 1)
PYTHON
export HF_HUB_OFFLINE=1
"$folder/venv/bin/python" "$folder/make.py" "$folder" >"$folder/made" 2>&1 || { cat "$folder/made" >&2; exit 1; }
"$folder/venv/bin/pip" list 2>/dev/null | grep -E "^(openvino-genai|diffusers) "
"$folder/venv/bin/python" "$folder/sample.py" "$folder" 2>/dev/null

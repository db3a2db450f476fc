#!/usr/bin/env bash
# One would guess: compel, through which InvokeAI reads the prompts of SD 1.5 and SDXL, changes nothing in plain words,
# and `a sign that says "open"` is no syntax. What happens: double quotes and parentheses are left out of the text, and
# + or - at the end of a word is a weight: "c++" is a "c" at 1.21, "18+" an "18" at 1.1. Nothing is said. A caption of a
# training set then samples another image than in diffusers. `\"`, `\(` and `\)` keep theirs; `\+` keeps its backslash
# too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet compel==2.5.1 torch==2.13.0 transformers==5.5.4 diffusers==0.40.0 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
from importlib.metadata import version

import torch
from compel import Compel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

torch.manual_seed(0)
letters = sorted(ByteLevel.alphabet())
tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
ends = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1, "pad_token_id": len(tokens) - 1}
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
encoder = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokens), **sizes, **ends)).eval()
vocabulary = {token: i for i, token in enumerate(tokens)}
tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)
compel = Compel(tokenizer=tokenizer, text_encoder=encoder)


@torch.no_grad()
def plain(text):
    """Return what diffusers' pipelines give to the UNet for a prompt."""
    return encoder(tokenizer(text, padding="max_length", return_tensors="pt").input_ids)[0]


def read(prompt):
    (parsed,) = Compel.parse_prompt_string(prompt).prompts
    return [(part.text, round(part.weight, 2)) for part in parsed.children]


print(f"compel {version('compel')}, transformers {version('transformers')}")
expected = {
    "a red heart": [("a red heart", 1.0)],
    'a sign that says "open"': [("a sign that says open", 1.0)],
    "a heart (small)": [("a heart small", 1.0)],
    "a c++ logo": [("a", 1.0), ("c", 1.21), ("logo", 1.0)],
    "size 18+": [("size", 1.0), ("18", 1.1)],
    r"a sign that says \"open\"": [('a sign that says "open"', 1.0)],
}
for prompt, parts in expected.items():
    is_plain = torch.allclose(compel(prompt), plain(prompt.replace("\\", "")), atol=1e-5)
    print(f"{prompt}: {read(prompt)}, {'as' if is_plain else 'not as'} transformers encodes it")
    assert read(prompt) == parts, read(prompt)
    assert is_plain == (prompt == "a red heart" or "\\" in prompt)
PYTHON

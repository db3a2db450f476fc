"""The feature extractors' real architectures: Inception with random weights, CLIP a small one."""

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

from fewstep.evaluation.inception import Inception
from fewstep.evaluation.weights import INCEPTION
from recipes.bundled_teacher.tokenizer import save_tokenizer


def save_inception(folder: Path) -> Path:
    """Write a file with the entries of the published one, and return it."""
    torch.manual_seed(0)
    table = Inception().state_dict()
    kept = {name: t for name, t in table.items() if "num_batches_tracked" not in name}
    path = folder / INCEPTION.name
    torch.save({**kept, "fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, path)
    return path


def save_clip(folder: Path) -> Path:
    """Write a CLIP of one layer with its tokenizer, and return its file of weights."""
    words = save_tokenizer(folder, 24)
    torch.manual_seed(0)
    text = {"vocab_size": len(words), "hidden_size": 16, "intermediate_size": 32,
            "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 24,
            "eos_token_id": words.eos_token_id, "projection_dim": 8}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
              "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
              "projection_dim": 8}  # fmt: skip
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    model.save_pretrained(folder)
    return folder / "model.safetensors"

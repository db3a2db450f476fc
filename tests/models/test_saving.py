"""A pipeline's folder holds the names and the tokenizer's forms that every version reads."""

import json

import pytest
import torch
import transformers
from diffusers import StableDiffusionPipeline
from packaging.version import Version
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import CLIPTextModel, CLIPTokenizer

from fewstep.models.base import ModelError
from fewstep.models.loading import bundled_folder, load_model
from fewstep.models.saving import save_pipeline
from tests.tiny import tiny_pipeline

TEXT = "a red heart and two stars"


@pytest.fixture(scope="module", params=["written", "bundled"])
def folder(request, tmp_path_factory):
    if request.param == "bundled":
        return bundled_folder()
    folder = tmp_path_factory.mktemp("written")
    save_pipeline(StableDiffusionPipeline.from_pretrained(tiny_pipeline()), folder)
    return folder


def test_the_text_encoder_has_the_names_that_all_versions_read(folder):
    """transformers before 5.6 makes up every weight whose name lacks the prefix, silently."""
    with safe_open(folder / "text_encoder" / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert all(name.startswith("text_model.") for name in names)
    _, info = CLIPTextModel.from_pretrained(folder / "text_encoder", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


def test_the_tokenizer_is_whole_in_the_old_form_and_in_the_new_one(folder):
    folder = folder / "tokenizer"
    tokens = CLIPTokenizer.from_pretrained(folder)(TEXT).input_ids
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXT).ids == tokens
    merges = json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]
    assert all(isinstance(merge, str) for merge in merges)  # pairs are unknown to tokenizers 0.19
    old = BPE.from_file(
        str(folder / "vocab.json"), str(folder / "merges.txt"), end_of_word_suffix="</w>"
    )
    words = [token.id for word in TEXT.split() for token in old.tokenize(word)]
    assert words == tokens[1:-1]


def test_an_added_token_stays(tmp_path):
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline())
    pipeline.tokenizer.add_tokens(["<mine>"])
    save_pipeline(pipeline, tmp_path)
    tokens = pipeline.tokenizer(f"{TEXT} <mine>").input_ids
    again = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert again(f"{TEXT} <mine>").input_ids == tokens
    assert len(again) == len(pipeline.tokenizer)


def test_no_config_says_where_the_pipeline_lay(tmp_path):
    save_pipeline(StableDiffusionPipeline.from_pretrained(tiny_pipeline()), tmp_path)
    for path in tmp_path.rglob("*.json"):
        assert str(tiny_pipeline()) not in path.read_text(), path


@pytest.mark.parametrize("part", ["text_encoder", "tokenizer"])
def test_what_only_a_newer_transformers_reads_is_said_to_be_so(tmp_path, part):
    save_pipeline(StableDiffusionPipeline.from_pretrained(tiny_pipeline()), tmp_path)
    expected = load_model(tmp_path)
    if part == "tokenizer":
        for name in ("vocab.json", "merges.txt"):
            (tmp_path / part / name).unlink()
    else:
        path = tmp_path / part / "model.safetensors"
        weights = load_file(path)
        save_file({n.removeprefix("text_model."): w for n, w in weights.items()}, path,
                  {"format": "pt"})  # fmt: skip
    came = "5.6" if part == "text_encoder" else "5"
    if Version(transformers.__version__) < Version(came):
        with pytest.raises(ModelError, match=f"the {part} of .* was written by a newer transform"):
            load_model(tmp_path)
    else:
        ours, theirs = (m.encode_prompts([TEXT])["text"] for m in (load_model(tmp_path), expected))
        assert torch.equal(ours, theirs)

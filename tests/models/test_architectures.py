"""The shipped architectures have the published sizes and token numbers."""

import pytest

from fewstep.models.adapters import lora_roles
from fewstep.models.architectures import ARCHITECTURES, architecture_folder
from fewstep.models.loading import load_skeleton
from fewstep.models.tokenizer import write_clip_tokenizer

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def size(network):
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize(
    ("name", "unet", "text", "resolution", "prediction"),
    [
        ("sd15", 859_520_964, [123_060_480], 512, "epsilon"),
        ("sd21-base", 865_910_724, [340_387_840], 512, "epsilon"),
        ("sd21", 865_910_724, [340_387_840], 768, "v_prediction"),
        ("sdxl", 2_567_463_684, [123_060_480, 694_659_840], 1024, "epsilon"),
    ],
)
def test_the_shipped_architectures_have_the_published_sizes(
    name, unet, text, resolution, prediction
):
    family = load_skeleton(ARCHITECTURES[name].hub_ids[0])
    assert size(family.network) == unet
    assert [size(part) for part in family.vae_and_text_encoder] == [83_653_863, *text]
    assert family.default_resolution == resolution
    assert family.scheduler_config["prediction_type"] == prediction


WIDTHS = [320] * 5 + [640] * 5 + [1280] * 6
"""Of SD 1.5's transformers: 2 going down and 3 going up a resolution, 1 in the middle."""

ATTENTION = sum(12 * w + 2 * (w + 768) for w in WIDTHS)
"""Inputs and outputs: six matrices of w x w, and two that read 768 numbers of text."""

TRANSFORMER = ATTENTION + sum(2 * 2 * w + (w + 8 * w) + (4 * w + w) for w in WIDTHS)
"""Also those into and out of the transformer, and a feed-forward of 4 w behind a gate."""


@pytest.mark.parametrize(
    ("preset", "parameters", "modules"),
    [
        ("attention", 64 * ATTENTION, 128),
        ("transformer", 64 * TRANSFORMER, 192),
        ("all", 67_252_224, 278),
    ],
)
def test_loras_have_the_published_sizes(preset, parameters, modules):
    roles = lora_roles(load_skeleton(SD15), preset, rank=64, alpha=64.0)
    assert sum(w.numel() for w in roles.trained.values()) == parameters
    assert len(roles.trained) == 2 * modules


def test_prompts_have_the_token_numbers_that_clip_gave_them(tmp_path):
    tokenizer = write_clip_tokenizer(tmp_path)
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert (len(tokenizer), tokenizer.model_max_length) == (49408, 77)


def test_sd_2_pads_with_the_first_token(tmp_path):
    with architecture_folder("sd21") as folder:
        tokenizer = type(write_clip_tokenizer(tmp_path)).from_pretrained(folder / "tokenizer")
    assert tokenizer("a", padding="max_length").input_ids[3:] == [0] * 74

"""The commands that generate, export and push, as they are typed."""

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.artefacts import tiny_artefact
from tests.tiny import tiny_pipeline


@pytest.fixture
def run(typed):
    """Type a command in an empty folder; return its exit code, and its output in one line."""

    def in_one_line(*arguments):
        code, output = typed(*arguments)
        return code, " ".join(output.split())

    return in_one_line


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    return tiny_artefact(tmp_path_factory.mktemp("student"))


def style(path):
    """Write a LoRA of one layer by kohya's names."""
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    save_file({f"{name}.lora_down.weight": torch.ones(2, 32),
               f"{name}.lora_up.weight": torch.ones(32, 2), f"{name}.alpha": torch.tensor(2.0)},
              path)  # fmt: skip


def test_an_image_is_generated_from_another_with_a_style(run, artefact, tmp_path):
    Image.new("RGB", (32, 48), "red").save(tmp_path / "sketch.png")
    style(tmp_path / "ink.safetensors")
    code, output = run(
        "sample", artefact, "a star", "--image", "sketch.png", "--strength", 0.5,
        "--lora", "ink.safetensors=0.5", "--seed", 9,
    )  # fmt: skip
    words = "2 network evaluations an image, starting at timesteps 499, 249"
    assert (code, words in output) == (0, True)
    with Image.open(tmp_path / "out.png") as image:
        text = image.info["parameters"]
    for words in ("a star", "Seed: 9", "LoRA: ink 0.5", "Denoising strength: 0.5", "Steps: 4"):
        assert words in text


def test_several_images_hold_their_settings_too(run, artefact, tmp_path):
    code, _ = run("sample", artefact, "a star", "two rings", "--seed", 9)
    with Image.open(tmp_path / "out.png") as image:
        *prompts, settings = image.info["parameters"].split("\n")
    assert (code, prompts) == (0, ["a star", "two rings"])
    for words in ("Steps: 4", "Seed: 9", "Size: 64x64", "Seeds: 9 to 10"):
        assert words in settings


def test_a_teachers_image_holds_its_settings_too(run, tmp_path):
    code, _ = run("sample", tiny_pipeline(), "a star", "--steps", 2)
    with Image.open(tmp_path / "out.png") as image:
        assert "Steps: 2, Sampler: DDIM trailing, CFG scale: 4" in image.info["parameters"]
    assert code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--strength", 0.5), "--strength goes with --image"),
        (("--image", "nowhere.png"), "--image: cannot read nowhere.png"),
        (("--lora", "ink.safetensors=much"), "write PATH or PATH=WEIGHT"),
        (("--lora", "ink.safetensors=nan"), "its weight has to be a finite number"),
        (("--lora", "ink.safetensors"), "there is no LoRA ink.safetensors"),
        (("--negative-prompt", "x"), "takes no guidance_scale and no negative prompt"),
    ],
)
def test_what_cannot_be_generated_is_one_sentence(run, artefact, arguments, message):
    code, output = run("sample", artefact, "a star", *arguments)
    assert (code, message in output) == (2, True), output


def test_a_plain_model_refuses_what_is_for_students(run):
    code, output = run("sample", tiny_pipeline(), "a star", "--lora", "a.safetensors")
    assert (code, "--lora is for students" in output) == (2, True)


def test_export_leads_to_push_and_a_dry_run_lists_the_files(run, artefact, tmp_path):
    code, output = run("export", artefact, "-o", "out", "--name", "my-student")
    lacking = "export it again with --base OWNER/NAME, the Hub id", "and --license ID, such as"
    assert (code, all(words in output for words in lacking)) == (0, True), output
    assert "next:" not in output
    code, output = run("push", "out", "me/mine", "--dry-run")
    assert (code, all(words in output for words in lacking)) == (2, True), output
    tiny_artefact(tmp_path / "hub", base="me/base")
    code, output = run("push", "hub", "me/mine", "--dry-run")
    assert (code, "in 9 files dry run: nothing was uploaded" in output) == (0, True)
    assert "tiny-student.safetensors" in output

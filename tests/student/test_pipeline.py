"""The pipeline generates a function of prompt and seed, and says what it cannot do."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from safetensors.torch import load_file, save_file

from fewstep.diffusion.random import Draw
from fewstep.errors import UserError
from fewstep.export.lora_formats import write_kohya_lora
from fewstep.models.base import ModelError
from fewstep.student.pipeline import FewStepPipeline
from fewstep.student.png_info import SampledImage
from fewstep.student.scheduler import FewStepScheduler
from fewstep.student.seeds import image_generators
from tests.artefacts import random_lora, tiny_artefact, tiny_family
from tests.tiny import tiny_pipeline

PROMPTS = ["a red heart", "two stars", "a ring"]


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    return tiny_artefact(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def pipeline(artefact):
    return FewStepPipeline.from_pretrained(artefact)


@pytest.fixture(scope="module")
def guidance_free(tmp_path_factory):
    folder = tmp_path_factory.mktemp("free")
    return tiny_artefact(folder, guidance_scale=1.0, caption_dropout=0.1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_decoder_without_numbers_is_an_error_and_no_black_image(artefact, value):
    broken = FewStepPipeline.from_pretrained(artefact)
    with torch.no_grad():
        broken.student[0].vae.decoder.conv_out.bias[1] = value
    with pytest.raises(UserError, match="the VAE's decoder gave images that are not finite"):
        broken("a star")


def pixels(images):
    return np.stack([np.asarray(image.image, np.int16) for image in images])


@pytest.mark.parametrize("method", ["multi-boundary-cd", "cd"])
def test_an_image_is_the_same_whatever_its_batch(tmp_path, method):
    pipeline = FewStepPipeline.from_pretrained(tiny_artefact(tmp_path, method))
    together = pixels(pipeline(PROMPTS, seed=3))
    for number, prompt in enumerate(PROMPTS):
        alone = pixels(pipeline(prompt, seed=3 + number))
        assert np.abs(alone[0] - together[number]).max() <= 1
    assert np.abs(pixels(pipeline(PROMPTS[0], seed=4)) - together[:1]).max() > 10


@pytest.mark.parametrize("method", ["multi-boundary-cd", "cd"])
def test_the_last_of_several_images_a_prompt_is_made_again_by_its_seed(tmp_path, method):
    pipeline = FewStepPipeline.from_pretrained(tiny_artefact(tmp_path, method))
    images = pipeline(PROMPTS[:2], seed=7, num_images_per_prompt=2, height=32, width=48)
    assert [image.seed for image in images] == [7, 8, 9, 10]
    assert [image.prompt for image in images] == [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2
    last = images[-1]
    assert (last.nfe, last.image.size) == (4, (48, 32))
    again = pipeline(last.prompt, seed=last.seed, height=32, width=48)
    assert np.abs(pixels(again) - pixels(images[-1:])).max() <= 1
    assert "Seed: 10, Size: 48x32" in last.parameters


@pytest.mark.parametrize("method", ["multi-boundary-cd", "cd"])
def test_a_seed_is_the_seed_of_a_generator(tmp_path, method):
    pipeline = FewStepPipeline.from_pretrained(tiny_artefact(tmp_path, method))
    by_seed = pixels(pipeline(PROMPTS[:2], seed=7))
    generators = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    by_generators = pipeline(PROMPTS[:2], generator=generators)
    assert np.array_equal(pixels(by_generators), by_seed)
    assert [image.seed for image in by_generators] == [7, 8]
    used = pipeline(PROMPTS[:2], generator=generators)
    assert [image.seed for image in used] == [None, None]
    assert "Seed" not in used[0].parameters


def test_one_generator_is_shared_as_in_diffusers(artefact, pipeline):
    pipe = StableDiffusionPipeline.from_pretrained(tiny_pipeline())
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(artefact)
    pipe.scheduler = FewStepScheduler.from_artefact(artefact)
    arguments = {"num_inference_steps": 4, "num_images_per_prompt": 2, "height": 64, "width": 32}
    theirs = pipe(
        PROMPTS[:2], generator=torch.Generator().manual_seed(7), guidance_scale=1, **arguments
    ).images
    mine = pipeline(PROMPTS[:2], generator=torch.Generator().manual_seed(7), **arguments)
    assert [image.seed for image in mine] == [None] * 4
    assert [image.size for image in mine.images] == [image.size for image in theirs]
    assert np.abs(pixels(mine) - np.stack([np.asarray(p, np.int16) for p in theirs])).max() <= 2


def test_the_two_snippets_of_the_readme_give_the_same_picture(artefact, monkeypatch, tmp_path):
    """They are run as printed, in a folder where their paths lead to a run and its model."""
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "artefact").symlink_to(artefact)
    (tmp_path / "path" / "to" / "your").mkdir(parents=True)
    (tmp_path / "path" / "to" / "your" / "model").symlink_to(tiny_pipeline())
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(snippets) == 2
    monkeypatch.chdir(tmp_path)
    images = []
    for snippet in snippets:
        names: dict = {}
        exec(snippet, names)
        images.append(np.asarray(names["image"], np.int16))
    assert np.abs(images[0] - images[1]).max() <= 2
    assert images[0].std() > 10


def as_a1111_reads(text):
    """Read a `parameters` text by the rules of A1111: the last line holds the settings."""
    *lines, last = text.strip().split("\n")
    found = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', last)
    settings = {key: value.strip('"') for key, value in found}
    assert len(settings) >= 3, "A1111 takes a last line of fewer settings for a prompt"
    negative = [line for line in lines if line.startswith("Negative prompt:")]
    settings["Negative prompt"] = negative[0].partition(":")[2].strip() if negative else ""
    settings["Prompt"] = "\n".join(line for line in lines if line not in negative)
    return settings


def test_the_png_file_has_the_settings_as_a1111_reads_them(pipeline, tmp_path):
    pipeline("a star,\n made of: glass", seed=7)[0].save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        found = as_a1111_reads(image.info["parameters"])
    assert found["Prompt"] == "a star, made of: glass"
    assert (found["Steps"], found["Seed"], found["CFG scale"]) == ("4", "7", "1")
    assert (found["Size"], found["Timesteps"]) == ("64x64", "999, 749, 499, 249")


def test_a_negative_prompt_and_words_of_any_script_reach_the_file(tmp_path):
    image = SampledImage(Image.new("RGB", (8, 8)), "ein Stern ★", 1, 8, "ragged, grey",
                      {"Steps": 4, "LoRA": 'a "b", c'})  # fmt: skip
    image.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        found = as_a1111_reads(image.info["parameters"])
    assert (found["Prompt"], found["Negative prompt"]) == ("ein Stern ★", "ragged, grey")
    assert found["LoRA"] == 'a \\"b\\", c'


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_inference_steps": 8}, "sampled in 4 steps, not 8"),
        ({"guidance_scale": 3.0}, "guidance 4 is distilled into it.*guidance-free.toml"),
        ({"negative_prompt": "ragged"}, "takes no guidance_scale and no negative prompt"),
        ({"generator": [torch.Generator()] * 2}, "2 generators for 1 images"),
        ({"generator": torch.Generator(), "seed": 1}, "give either seed or generator"),
        ({"seed": -1}, "seed is -1; it has to be 0 or more"),
        ({"seed": 2**64 - 1, "prompt": PROMPTS}, "seed is 18446744073709551615"),
        ({"num_images_per_prompt": 0}, "the number of images is 0"),
        ({"image": Image.new("RGB", (8, 8)), "strength": 0.1}, "strength is 0.1.*use 0.25 to 1"),
        ({"image": Image.new("RGB", (8, 8)), "strength": 1.5}, "strength is 1.5"),
        ({"height": 60}, "height is 60; this model needs a multiple of 16"),
        ({"width": -16}, "width is -16; this model needs a multiple of 16, such as 16 or 32"),
        ({"width": 0}, "width is 0; this model needs a multiple of 16"),
        ({"strength": 0.5}, "strength goes with image"),
        ({"prompt": []}, "there is no prompt"),
    ],
)
def test_what_the_student_cannot_do_is_refused(pipeline, options, message):
    with pytest.raises(UserError, match=message):
        pipeline(**{"prompt": "a star"} | options)


@pytest.mark.parametrize("num_segments", [3, 6, 7])
def test_the_least_strength_that_is_named_works(tmp_path, num_segments):
    settings = {"num_segments": num_segments, "num_solver_steps": 2 * num_segments}
    pipeline = FewStepPipeline.from_pretrained(tiny_artefact(tmp_path, **settings))
    image = Image.new("RGB", (8, 8))
    with pytest.raises(UserError, match=r"strength is 0\.1") as error:
        pipeline("a star", image=image, strength=0.1)
    least = float(str(error.value).rpartition("use ")[2].partition(" to")[0])
    assert pipeline("a star", image=image, strength=least)[0].nfe == 1


def test_an_image_from_another_tells_the_whole_number_of_steps_as_a1111_does(pipeline):
    image = pipeline("a star", image=Image.new("RGB", (8, 8)), strength=0.5)[0]
    found = as_a1111_reads(image.parameters)
    assert (found["Steps"], found["Denoising strength"], found["Calls"]) == ("4", "0.5", "2")
    assert found["Timesteps"] == "499, 249"


def test_a_student_that_never_saw_an_empty_prompt_takes_no_guidance(tmp_path):
    pipeline = FewStepPipeline.from_pretrained(tiny_artefact(tmp_path, guidance_scale=1.0))
    with pytest.raises(UserError, match="never saw an empty prompt"):
        pipeline("a star", guidance_scale=3.0)


def test_a_guidance_free_student_takes_guidance_as_diffusers_gives_it(guidance_free):
    pipeline = FewStepPipeline.from_pretrained(guidance_free)
    options = {"guidance_scale": 3.0, "negative_prompt": "a ring"}
    mine = pipeline(PROMPTS[:2], seed=3, **options)
    assert mine[0].nfe == 8
    pipe = StableDiffusionPipeline.from_pretrained(tiny_pipeline())
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(guidance_free)
    pipe.scheduler = FewStepScheduler.from_artefact(guidance_free)
    noise = Draw(image_generators(3, 2)).noise_like(torch.empty(2, 4, 8, 8))
    theirs = pipe(
        PROMPTS[:2], num_inference_steps=4, guidance_scale=3.0, negative_prompt=["a ring"] * 2,
        latents=noise, height=64, width=64, output_type="np",
    ).images  # fmt: skip
    assert np.abs(pixels(mine) / 255 - theirs).max() <= 2 / 255
    assert np.abs(pixels(mine) - pixels(pipeline(PROMPTS[:2], seed=3))).max() > 5
    with pytest.raises(UserError, match="a negative prompt has no effect at guidance_scale 1"):
        pipeline("a star", negative_prompt="a ring")


def style(folder, seed=1, text=False):
    """Write a LoRA as others do: kohya's names, alpha half of the rank, also for the text."""
    family, path = tiny_family(), folder / "ink.safetensors"
    weights = random_lora(family.network, "attention", seed=seed)
    write_kohya_lora(path, weights, {})
    tensors = {n: w / 2 if n.endswith(".alpha") else w for n, w in load_file(path).items()}
    if text:
        for layer in ("q_proj", "k_proj", "v_proj", "out_proj"):
            name = f"lora_te_text_model_encoder_layers_0_self_attn_{layer}"
            draw = torch.Generator().manual_seed(seed)
            tensors |= {
                f"{name}.lora_down.weight": torch.randn(2, 16, generator=draw),
                f"{name}.lora_up.weight": torch.randn(16, 2, generator=draw),
                f"{name}.alpha": torch.tensor(1.0),
            }
    save_file(tensors, path)
    return str(path), weights


def test_a_style_is_added_with_its_weight(pipeline, artefact, tmp_path):
    path, lora = style(tmp_path)
    styled = FewStepPipeline.from_pretrained(artefact, loras={path: 0.8})
    _, mine = styled.student
    _, plain = pipeline.student
    both, alone = mine.state_dict(), plain.state_dict()
    for name in (n.removesuffix(".lora_A.weight") for n in lora if ".lora_A." in n):
        down, up = lora[f"{name}.lora_A.weight"], lora[f"{name}.lora_B.weight"]
        update = both[f"{name}.weight"] - alone[f"{name}.weight"]
        torch.testing.assert_close(update, 0.8 * 0.5 * up @ down, rtol=1e-4, atol=1e-5)
    changed = sum(not torch.equal(both[name], alone[name]) for name in both)
    assert changed == len(lora) // 2
    assert styled("a star")[0].settings["LoRA"] == "ink 0.8"


def test_two_styles_are_both_added(pipeline, artefact, tmp_path, caplog):
    loras = {}
    for seed, weight in ((1, 0.8), (2, -0.3)):
        (tmp_path / str(seed)).mkdir()
        path, lora = style(tmp_path / str(seed), seed)
        loras[path] = weight, lora
    diffusers_logging.add_handler(caplog.handler)
    both = FewStepPipeline.from_pretrained(
        artefact, loras={path: weight for path, (weight, _) in loras.items()}
    )
    _, mine = both.student
    diffusers_logging.remove_handler(caplog.handler)
    assert not caplog.records, "diffusers' advice is kept out"
    _, plain = pipeline.student
    name = next(n for n in lora if ".lora_A." in n).removesuffix(".lora_A.weight")
    expected = sum(
        weight * 0.5 * lora[f"{name}.lora_B.weight"] @ lora[f"{name}.lora_A.weight"]
        for weight, lora in loras.values()
    )
    update = mine.get_submodule(name).weight - plain.get_submodule(name).weight
    torch.testing.assert_close(update, expected, rtol=1e-4, atol=1e-5)
    assert both("a star")[0].settings["LoRA"] == "ink 0.8, ink -0.3"


def test_a_style_of_the_text_encoder_changes_prompts_but_not_the_base(artefact, tmp_path):
    path, _ = style(tmp_path, text=True)
    before = FewStepPipeline.from_pretrained(artefact).base.encode_prompts(["a star"])["text"]
    pipeline = FewStepPipeline.from_pretrained(artefact, loras={path: 1.0})
    family, _ = pipeline.student
    assert (family.encode_prompts(["a star"])["text"] - before).abs().max() > 0.01
    assert torch.equal(pipeline.base.encode_prompts(["a star"])["text"], before)


def test_a_style_that_does_not_fit_is_refused(artefact, tmp_path):
    (tmp_path / "style.ckpt").write_bytes(b"")
    save_file({"lora_unet_nowhere.lora_down.weight": torch.zeros(2, 4),
               "lora_unet_nowhere.lora_up.weight": torch.zeros(4, 2),
               "lora_unet_nowhere.alpha": torch.tensor(2.0)},
              tmp_path / "other.safetensors")  # fmt: skip
    (tmp_path / "dora").mkdir()
    plain = load_file(style(tmp_path / "dora")[0])
    name = next(iter(plain)).partition(".")[0]
    save_file({**plain, f"{name}.dora_scale": torch.ones(32)}, tmp_path / "dora.safetensors")
    (tmp_path / "half.safetensors").write_bytes(b"not one")
    for name, message in {
        "style.ckpt": "pickled",
        "missing.safetensors": "there is no LoRA",
        "dora": r"is a folder; give the path of its file, such as \S*dora.\w+\.safetensors",
        "style.png": r"is not a \.safetensors file$",
        "other.safetensors": "LoRA .*other.safetensors",
        "half.safetensors": "cannot read the LoRA",
        "dora.safetensors": "is a DoRA, which is not read here",
    }.items():
        with pytest.raises(ModelError, match=message):
            FewStepPipeline.from_pretrained(artefact, loras={str(tmp_path / name): 1.0})

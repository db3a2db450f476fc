"""A small decoder is diffusers' AutoencoderTiny, for one VAE alone, in sampling and in exports."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from fewstep.diffusion.random import Draw
from fewstep.errors import UserError
from fewstep.export.export import ExportOptions, export_artefact
from fewstep.models.base import ModelError
from fewstep.models.loading import load_model
from fewstep.models.tiny_decoder import (
    CONTRACT,
    TINY_FOLDER,
    WEIGHTS,
    default_channels,
    new_decoder,
    with_decoder,
    with_vae,
    write_decoder,
)
from fewstep.student.load import ArtefactError, decoder_folder
from fewstep.student.pipeline import FewStepPipeline
from fewstep.student.scheduler import FewStepScheduler
from fewstep.student.seeds import image_generators
from tests.artefacts import tiny_artefact, tiny_family
from tests.tiny import tiny_pipeline, tiny_xl_pipeline

PROMPTS = ["a red heart", "two stars"]


def random_decoder(folder, family=None):
    """Write a decoder whose images are not grey, and return its folder."""
    family = with_vae(family or tiny_family())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = new_decoder(family, 16)
    folder.mkdir(parents=True, exist_ok=True)
    write_decoder(folder, decoder, family, {"steps": 0}, {"torch": torch.__version__})
    return folder


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    """An artefact with a decoder in it."""
    folder = tiny_artefact(tmp_path_factory.mktemp("student"))
    random_decoder(folder / TINY_FOLDER)
    return folder


@pytest.fixture
def decoder(artefact, tmp_path):
    """A copy of the decoder to damage."""
    return shutil.copytree(artefact / TINY_FOLDER, tmp_path / "copy")


def pixels(images):
    return np.stack([np.asarray(image.image, np.int16) for image in images])


def test_stock_diffusers_gives_the_same_image(artefact):
    pipe = StableDiffusionPipeline.from_pretrained(tiny_pipeline())
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(artefact)
    pipe.scheduler = FewStepScheduler.from_artefact(artefact)
    pipe.vae = AutoencoderTiny.from_pretrained(artefact / TINY_FOLDER)
    noise = Draw(image_generators(3, 2)).noise_like(torch.empty(2, 4, 8, 8))
    theirs = pipe(
        PROMPTS, num_inference_steps=4, guidance_scale=1, latents=noise,
        height=64, width=64, output_type="np",
    ).images  # fmt: skip
    mine = FewStepPipeline.from_pretrained(artefact, decoder="tiny")(PROMPTS, seed=3)
    assert np.abs(pixels(mine) / 255 - theirs).max() <= 1.5 / 255
    assert pixels(mine).std() > 10, "they are images"
    assert "VAE Decoder: tiny" in mine[0].parameters
    whole = FewStepPipeline.from_pretrained(artefact)(PROMPTS, seed=3)
    assert np.abs(pixels(mine) - pixels(whole)).max() > 20


def test_an_image_to_start_from_is_still_encoded_by_the_vae(artefact):
    whole = FewStepPipeline.from_pretrained(artefact)
    tiny = FewStepPipeline.from_pretrained(artefact, decoder=artefact / TINY_FOLDER)
    image = whole("a star", seed=1)[0].image
    assert torch.equal(whole.encode(image, 64, 64), tiny.encode(image, 64, 64))


def test_it_has_half_the_vaes_channels_and_its_sizes():
    family = with_vae(load_model("bundled"))
    config = new_decoder(family, default_channels(family)).config
    assert (default_channels(family), len(config.decoder_block_out_channels)) == (16, 3)
    stable_diffusion = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=0,
                                     down_block_types=("DownEncoderBlock2D",) * 4,
                                     up_block_types=("UpDecoderBlock2D",) * 4)  # fmt: skip
    assert default_channels(replace(family, vae=stable_diffusion)) == 64
    ours = new_decoder(replace(family, vae=stable_diffusion), 64).decoder.state_dict()
    theirs = AutoencoderTiny().decoder.state_dict()
    assert {n: w.shape for n, w in ours.items()} == {n: w.shape for n, w in theirs.items()}


def test_an_export_takes_the_decoder_along(artefact, tmp_path):
    out = tmp_path / "out"
    export_artefact(str(artefact), out, ExportOptions())
    export_artefact(str(artefact), out, ExportOptions())  # over the one that is there
    named = json.loads((out / "fewstep.json").read_text())["files"]
    assert {f"{TINY_FOLDER}/{name}" for name in (CONTRACT, WEIGHTS, "config.json")} <= named.keys()
    assert (
        'AutoencoderTiny.from_pretrained("FOLDER/tiny_decoder")' in (out / "README.md").read_text()
    )
    mine, again = (FewStepPipeline.from_pretrained(f, decoder="tiny") for f in (artefact, out))
    assert np.array_equal(pixels(mine("a star", seed=1)), pixels(again("a star", seed=1)))


def refusal(folder, base=tiny_pipeline):
    with pytest.raises(ModelError) as error:
        with_decoder(load_model(base()), folder)
    return str(error.value)


def test_a_decoder_of_another_vae_is_refused(decoder, tmp_path):
    assert "another VAE than this model's, of other weights and scaling_factor" in refusal(
        decoder, tiny_xl_pipeline
    )
    contract = json.loads((decoder / CONTRACT).read_text())
    (decoder / CONTRACT).write_text(json.dumps(contract | {"scaling_factor": 0.5}))
    assert re.search(r"of other scaling_factor: .*fewstep distill-decoder CONFIG", refusal(decoder))


def test_a_decoder_of_other_latents_is_refused(tmp_path):
    decoder = random_decoder(tmp_path / "bundled", load_model("bundled"))
    assert (
        "is for latents of 4 channels at 1/4 of the image's side, and this model's have 4 channels "
        "at 1/8 of the image's side"
    ) in refusal(decoder)
    AutoencoderTiny(latent_channels=16).save_pretrained(tmp_path / "flux")
    assert "is for latents of 16 channels at 1/8" in refusal(tmp_path / "flux")


def test_one_of_others_is_taken_if_its_latents_fit(tmp_path):
    AutoencoderTiny().save_pretrained(tmp_path)
    family, latents = with_decoder(tiny_family(), tmp_path), torch.randn(1, 4, 8, 8)
    theirs = AutoencoderTiny.from_pretrained(tmp_path).decode(latents).sample / 2 + 0.5
    assert torch.allclose(family.decode(latents), theirs.clamp(0, 1), atol=1e-5)


def test_a_damaged_decoder_is_refused(decoder):
    weights = load_file(decoder / WEIGHTS)
    save_file({name: 2 * weight for name, weight in weights.items()}, decoder / WEIGHTS)
    assert "its weights are not those that decoder.json was written for" in refusal(decoder)
    (decoder / WEIGHTS).unlink()
    assert f"it has no {WEIGHTS}" in refusal(decoder)
    (decoder / CONTRACT).write_text('{"fingerprint": 3}')
    assert "fingerprint" in refusal(decoder)
    (decoder / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    assert "its config.json is of AutoencoderKL, and not of AutoencoderTiny" in refusal(decoder)
    (decoder / "config.json").unlink()
    assert "config.json" in refusal(decoder)


def test_a_missing_decoder_names_the_command_that_makes_it(tmp_path):
    student = tiny_artefact(tmp_path / "student")
    with pytest.raises(ArtefactError, match=r"has no tiny_decoder; .*fewstep export RUN -o OUT"):
        FewStepPipeline.from_pretrained(student, decoder="tiny")
    with pytest.raises(ArtefactError, match=r"there is no decoder .*none: name a folder"):
        decoder_folder(tmp_path / "none", student)
    with pytest.raises(UserError, match="a plain model has no decoder of its own"):
        decoder_folder("tiny")


def test_a_family_without_such_a_vae_is_refused():
    with pytest.raises(ModelError, match="an AutoencoderKL, which a object has not"):
        with_vae(object())

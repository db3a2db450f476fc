"""The border gives what diffusers gives, and names what is missing."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig

from fewstep.diffusion.random import Draw
from fewstep.models import stable_diffusion
from fewstep.models.base import ModelError, digest, fingerprint
from fewstep.models.loading import load_model, load_skeleton
from fewstep.student.generate import teacher_sampler
from fewstep.student.seeds import image_generators
from tests.tiny import into_hub_cache, save_tiny_pipeline, tiny_pipeline

PROMPTS = ["a red heart", "two stars"]


@pytest.fixture(scope="module", params=[1, 2])
def version(request):
    """Stable Diffusion 1.x, and 2.x with v-prediction and zero terminal SNR."""
    return request.param


@pytest.fixture(scope="module")
def family(version):
    return load_model(tiny_pipeline(version))


@pytest.fixture(scope="module")
def stock(version):
    pipe = StableDiffusionPipeline.from_pretrained(tiny_pipeline(version))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_the_teachers_images_are_those_of_stock_diffusers(family, stock, guidance_scale):
    stock.scheduler = DDIMScheduler.from_config(
        stock.scheduler.config,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=0,
    )
    noise = Draw(image_generators(3, 2)).noise_like(torch.empty(2, 4, 8, 8))
    theirs = stock(
        PROMPTS,
        num_inference_steps=10,
        guidance_scale=guidance_scale,
        latents=noise,
        height=64,
        width=64,
        output_type="np",
    ).images
    sampler = teacher_sampler(family, 10, guidance_scale)
    ours = sampler.decode(sampler.latents(PROMPTS, image_generators(3, 2), 64)).numpy()
    assert sampler.nfe == (20 if guidance_scale > 1 else 10)
    assert np.abs(ours / 255 - theirs).max() <= 1 / 255


def test_an_image_does_not_depend_on_its_batch(family):
    sampler = teacher_sampler(family, 4, 4.0)
    together = sampler.latents(PROMPTS, image_generators(0, 2), 64)
    alone = sampler.latents(PROMPTS[1:], image_generators(1, 1), 64)
    torch.testing.assert_close(alone[0], together[1], rtol=1e-4, atol=1e-4)


def test_the_latents_mean_and_deviation_are_the_autoencoders(family, stock):
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    mean, std = family.encode_images(images)
    with torch.no_grad():
        posterior = stock.vae.encode(2 * images - 1).latent_dist
    scale = stock.vae.config.scaling_factor
    torch.testing.assert_close(mean, posterior.mean * scale)
    torch.testing.assert_close(std, posterior.std * scale)


def test_the_autoencoder_is_given_no_more_pixels_at_once_than_fit(family, monkeypatch):
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    whole, _ = family.encode_images(images)
    decoded = family.decode(whole)
    monkeypatch.setattr(stable_diffusion, "PIXELS_AT_ONCE", 64**2)
    torch.testing.assert_close(family.encode_images(images)[0], whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(family.decode(whole), decoded, rtol=1e-4, atol=1e-4)


def test_a_resolution_that_the_autoencoder_cannot_divide_is_refused(family):
    assert family.latent_shape(64) == (4, 8, 8)
    with pytest.raises(
        ModelError, match=r"data.resolution is 60.*multiple of 16, such as 48 or 64"
    ):
        family.latent_shape(60)
    assert family.latent_shape(64, 96) == (4, 8, 12)
    with pytest.raises(ModelError, match=r"width is 100.*multiple of 16, such as 96 or 112"):
        family.latent_shape(64, 100)


def test_the_fingerprint_is_of_the_weights_alone(family, version):
    again = load_model(tiny_pipeline(version))
    assert fingerprint(again.network) == fingerprint(family.network)
    halved = load_model(tiny_pipeline(version), dtype=torch.bfloat16)
    assert halved.fingerprint == family.fingerprint
    next(again.network.parameters()).data += 0.01
    assert fingerprint(again.network) != fingerprint(family.network)


def test_the_fingerprint_does_not_know_which_library_named_the_text_encoders_weights(family):
    vae, text_encoder = family.vae_and_text_encoder
    plain = {n.removeprefix("text_model."): w for n, w in text_encoder.state_dict().items()}
    before_5_6 = {f"text_model.{name}": weight for name, weight in plain.items()}
    digests = {digest(vae.state_dict(), names) for names in (plain, before_5_6)}
    assert digests == {fingerprint(vae, text_encoder)}


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_component_is_named(tmp_path, component):
    folder = tmp_path / "model"
    shutil.copytree(tiny_pipeline(), folder)
    shutil.rmtree(folder / component)
    with pytest.raises(ModelError, match=f"cannot load the {component} of .*model"):
        load_model(folder)


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_a_half_written_component_is_named(tmp_path, component):
    folder = tmp_path / "model"
    shutil.copytree(tiny_pipeline(), folder)
    (weights,) = (folder / component).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ModelError, match=f"cannot load the {component}"):
        load_model(folder)


def pickled(folder, component, **others):
    """Put a pickle in the place of a component's weights."""
    shutil.copytree(tiny_pipeline(), folder)
    (safe,) = (folder / component).glob("*.safetensors")
    name = "pytorch_model.bin" if component == "text_encoder" else "diffusion_pytorch_model.bin"
    torch.save(load_file(safe) | others, safe.with_name(name))
    safe.unlink()
    return folder


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_pickled_weights_are_loaded_only_when_asked_for(tmp_path, component):
    folder = pickled(tmp_path / "model", component)
    with pytest.raises(
        ModelError, match=rf"load the {component}.*pickled.*model.allow_pickle = true"
    ):
        load_model(folder)
    mine, theirs = load_model(folder, allow_pickle=True), load_model(tiny_pipeline())
    assert mine.fingerprint == theirs.fingerprint
    assert fingerprint(*mine.vae_and_text_encoder) == fingerprint(*theirs.vae_and_text_encoder)


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_a_pickle_with_more_than_weights_is_refused(tmp_path, component):
    folder = pickled(tmp_path / "model", component, callback=Draw.keyed)
    with pytest.raises(
        ModelError, match=rf"load the {component} .*more than weights.*to .safetensors"
    ):
        load_model(folder, allow_pickle=True)


def test_a_variant_is_loaded_when_named_and_named_when_it_is_all_there_is(tmp_path):
    shutil.copytree(tiny_pipeline(), tmp_path / "model")
    for path in (tmp_path / "model").glob("*/*.safetensors"):
        path.rename(path.with_suffix(".fp16.safetensors"))
    with pytest.raises(ModelError, match=r"load the unet .*set model.variant = 'fp16'"):
        load_model(tmp_path / "model")
    with pytest.raises(ModelError, match=r"load the unet .*set no model.variant"):
        load_model(tiny_pipeline(), variant="fp16")
    family = load_model(tmp_path / "model", variant="fp16")
    assert family.fingerprint == load_model(tiny_pipeline()).fingerprint


@pytest.mark.parametrize("name", ["model_index.json", "scheduler/scheduler_config.json"])
def test_a_config_that_is_no_object_is_refused(tmp_path, name):
    folder = tmp_path / "model"
    shutil.copytree(tiny_pipeline(), folder)
    (folder / name).write_text("[1, 2]")
    with pytest.raises(ModelError, match="json holds a list in place of an object"):
        load_model(folder)


@pytest.mark.slow
def test_a_hub_id_is_pinned_to_the_commit_that_it_was_read_at(tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    into_hub_cache("me/tiny", tiny_pipeline(), tmp_path, commit)
    program = (
        "from fewstep.models.loading import load_model; model = load_model('me/tiny');"
        "print(model.revision, model.fingerprint)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    ).stdout.split()
    assert printed == [commit, load_model(tiny_pipeline()).fingerprint]


@pytest.mark.parametrize(
    ("component", "lacking"),
    [
        ("unet", "conv_out.weight"),
        ("vae", "decoder.conv_in.bias"),
        ("text_encoder", "layers.0.mlp.fc1.weight"),
    ],
)
def test_weights_that_a_component_lacks_are_named(tmp_path, component, lacking):
    folder = tmp_path / "model"
    shutil.copytree(tiny_pipeline(), folder)
    (path,) = (folder / component).glob("*.safetensors")
    weights = load_file(path)
    save_file({name: w for name, w in weights.items() if not name.endswith(lacking)}, path,
              metadata={"format": "pt"})  # fmt: skip
    with pytest.raises(ModelError, match=rf"load the {component} .*missing.*{lacking}"):
        load_model(folder)


def test_the_positions_that_old_text_encoders_carry_are_no_weights(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_pipeline(), folder)
    (path,) = (folder / "text_encoder").glob("*.safetensors")
    positions = {"text_model.embeddings.position_ids": torch.arange(24)[None]}
    save_file(load_file(path) | positions, path, metadata={"format": "pt"})
    text, theirs = (load_model(f).text_encoder.state_dict() for f in (folder, tiny_pipeline()))
    assert text.keys() == theirs.keys()
    assert all(torch.equal(text[name], theirs[name]) for name in text)


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"neither a diffusers folder with a model_index.json"):
        load_model(tmp_path)


def with_settings(folder, path, **settings):
    """Write the tiny pipeline with other settings in one of its JSON files."""
    shutil.copytree(tiny_pipeline(), folder)
    config = json.loads((folder / path).read_text()) | settings
    kept = {name: value for name, value in config.items() if value != "leave out"}
    (folder / path).write_text(json.dumps(kept))
    return folder


@pytest.mark.parametrize(
    ("component", "settings", "message"),
    [
        ("unet", {"in_channels": 9}, "UNet of .* in_channels = 9, as inpainting models do"),
        ("unet", {"in_channels": 5}, "in_channels = 5, as depth models do"),
        ("unet", {"out_channels": 8}, "out_channels = 8, as models that edit images do, and the"),
        ("vae", {"latent_channels": 16}, "in_channels = 4, and the VAE's latents have 16"),
        ("unet", {"class_embed_type": "timestep"}, "class_embed_type = 'timestep': it also takes"),
        ("unet", {"num_class_embeds": 10}, "num_class_embeds = 10: it also takes class labels"),
        ("unet", {"addition_embed_type": "text_time"}, "addition_embed_type = 'text_time': it"),
        ("unet", {"encoder_hid_dim_type": "text_proj"}, "encoder_hid_dim_type = 'text_proj'"),
        ("unet", {"time_cond_proj_dim": 256}, "time_cond_proj_dim = 256: .*guidance scale, as"),
        ("unet", {"cross_attention_dim": 32}, "cross_attention_dim = 32, and .*hidden_size is 16"),
        ("unet", {"sample_size": None}, "sample_size = None"),
        ("unet", {"dual_cross_attention": True}, "dual_cross_attention = True: it also takes imag"),
        ("unet", {"encoder_hid_dim": 32}, "encoder_hid_dim = 32: it also takes prompts of anothe"),
        ("unet", {"class_embeddings_concat": True}, "class_embeddings_concat = True"),
        ("unet", {"down_block_types": ["KCrossAttnDownBlock2D", "DownBlock2D"]},
         "down_block_types with KCrossAttnDownBlock2D, not DownBlock2D or CrossAttnDownBlock2D"),
        ("unet", {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "with UNetMidBlock2DSimple"),
        ("unet", {"quantization_config": {"quant_method": "torchao"}}, r"quantised \(torchao\)"),
        ("text_encoder", {"quantization_config": {"quant_method": "bitsandbytes"}},
         r"the text_encoder of .* is quantised \(bitsandbytes\)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("load", [load_model, load_skeleton])
def test_a_network_that_cannot_be_used_is_refused_by_its_config(
    tmp_path, load, component, settings, message
):
    folder = with_settings(tmp_path / "model", f"{component}/config.json", **settings)
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()  # before any is read
    with pytest.raises(ModelError, match=message):
        load(folder)


def test_a_tokenizer_without_a_length_has_the_encoders(tmp_path, family):
    path = "tokenizer/tokenizer_config.json"
    folder = with_settings(tmp_path / "model", path, model_max_length="leave out")
    ours = load_model(folder).encode_prompts(PROMPTS)["text"]
    assert torch.equal(ours, load_model(tiny_pipeline()).encode_prompts(PROMPTS)["text"])
    longer = with_settings(tmp_path / "longer", path, model_max_length=77)
    assert torch.equal(ours, load_model(longer).encode_prompts(PROMPTS)["text"])


def test_a_text_encoder_with_more_rows_than_tokens_is_the_same(tmp_path):
    name = "text_model.embeddings.token_embedding.weight"
    rows = CLIPTextConfig.from_pretrained(tiny_pipeline(), subfolder="text_encoder").vocab_size
    folder = with_settings(tmp_path / "model", "text_encoder/config.json", vocab_size=rows + 40)
    (path,) = (folder / "text_encoder").glob("*.safetensors")
    weights = {("" if n.startswith("text_model.") else "text_model.") + n: w
               for n, w in load_file(path).items()}  # fmt: skip
    weights[name] = torch.cat([weights[name], torch.zeros(40, 16)])
    save_file(weights, path.with_name("new"), metadata={"format": "pt"})
    path.with_name("new").replace(path)
    ours = load_model(folder).encode_prompts(PROMPTS)["text"]
    assert torch.equal(ours, load_model(tiny_pipeline()).encode_prompts(PROMPTS)["text"])
    fewer = with_settings(tmp_path / "fewer", "text_encoder/config.json", vocab_size=rows - 1)
    with pytest.raises(ModelError, match=rf"tokenizer .*has {rows} tokens, the text encoder"):
        load_skeleton(fewer)


def test_an_unknown_family_is_refused(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(ModelError, match=r"FluxPipeline; the families known are: StableDiff"):
        load_model(tmp_path)


def test_epsilon_with_zero_terminal_snr_is_refused(tmp_path):
    folder = save_tiny_pipeline(tmp_path)
    path = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text()) | {"rescale_betas_zero_snr": True}
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="rescale_betas_zero_snr"):
        load_model(folder)

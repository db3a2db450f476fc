"""A checkpoint file gives the model that a folder of it gives, offline, or names what it lacks."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save, save_file

from fewstep.models.base import ModelError
from fewstep.models.loading import load_model, load_skeleton
from fewstep.models.single_file import FIRST_CONV, PROMPT_KEY, recognise
from tests.tiny import save_tiny_pipeline, tiny_pipeline

LAST_NORMS = (
    "cond_stage_model.transformer.text_model.final_layer_norm.weight",
    "cond_stage_model.model.ln_final.weight",
)
"""One weight of the text encoders of SD 1 and 2."""


@pytest.fixture(scope="module", params=[1, 2])
def checkpoint(request, tmp_path_factory):
    """A tiny SD 1 and a tiny SD 2 in one file, and the folder that they come from."""
    folder = tiny_pipeline(request.param)
    family = load_model(folder)
    weights = family.checkpoint_weights(family.network)
    if request.param == 2:  # every published file of SD 2 has it, and nothing uses it
        weights["cond_stage_model.model.text_projection"] = torch.zeros(16, 16)
    path = tmp_path_factory.mktemp("files") / "model.safetensors"
    save_file(weights, path)
    return path, folder


def weights_of(family):
    for component in (family.network, *family.vae_and_text_encoder):
        yield from component.state_dict().items()


def test_a_checkpoint_file_loads_to_identical_weights(checkpoint):
    path, folder = checkpoint
    mine, theirs = load_model(path, config=str(folder)), load_model(folder)
    pairs = zip(weights_of(mine), weights_of(theirs), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)
    assert mine.fingerprint == theirs.fingerprint
    assert mine.schedule.digest == theirs.schedule.digest
    text = mine.encode_prompts(["a red heart"])["text"]
    assert torch.equal(text, theirs.encode_prompts(["a red heart"])["text"])


def test_a_file_of_novelais_time_has_a_text_encoder(tmp_path):
    family = load_model(folder := tiny_pipeline())
    weights = family.checkpoint_weights(family.network)
    old = {n.replace("transformer.text_model.", "transformer."): w for n, w in weights.items()}
    assert old.keys() != weights.keys()
    save_file(old, tmp_path / "nai.safetensors")
    mine = load_model(tmp_path / "nai.safetensors", config=str(folder))
    text = mine.encode_prompts(["a red heart"])["text"]
    assert torch.equal(text, family.encode_prompts(["a red heart"])["text"])


@pytest.mark.parametrize("ending", [".scale_weight", ".weight_scale"])
def test_scaled_fp8_weights_are_scaled(tmp_path, ending):
    family = load_model(folder := tiny_pipeline())
    weights = family.checkpoint_weights(family.network)
    start = "model.diffusion_model."
    for name in [n for n in weights if n.startswith(start) and n.endswith(".weight")]:
        scale = weights[name].abs().max() / 448 + 1e-12
        weights[name] = (weights[name] / scale).to(torch.float8_e4m3fn)
        weights[name.removesuffix(".weight") + ending] = scale
    weights[start + "scaled_fp8"] = torch.zeros(0, dtype=torch.float8_e4m3fn)
    save_file(weights, tmp_path / "fp8.safetensors")
    mine = load_model(tmp_path / "fp8.safetensors", config=str(folder))
    for (name, x), y in zip(
        mine.network.state_dict().items(), family.network.state_dict().values(), strict=True
    ):
        assert (x - y).abs().max() <= y.abs().max() / 14, name  # 3 bits of mantissa


def test_a_weight_that_is_not_read_is_refused_unless_its_kind_is_known(tmp_path):
    family = load_model(folder := tiny_pipeline())
    weights = family.checkpoint_weights(family.network)
    known = ("model_ema.decay", "betas", "sqrt_recip_alphas_cumprod",
             "cond_stage_model.transformer.text_model.embeddings.position_ids")  # fmt: skip
    path = tmp_path / "m.safetensors"
    save_file(weights | {name: torch.zeros(1) for name in known}, path)
    load_model(path, config=str(folder))
    for strange in (f"model.diffusion_model.{n}" for n in ("out.2.SCB", "label_emb.0.0.weight")):
        save_file(weights | {strange: torch.zeros(1)}, path)
        with pytest.raises(ModelError, match=f"1 weights that are not read, such as {strange}"):
            load_model(path, config=str(folder))


SCALED = "model.diffusion_model.input_blocks.1.0.in_layers.2"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({f"{SCALED}.weight_scale": torch.ones(16, 9)}, "1 weights that are not read, such as"),
        ({"model.diffusion_model.no.scale_weight": torch.ones(1)}, r"such as \S*no\.scale_weight"),
        ({f"{SCALED}.weight": torch.ones(16, 16, 3, 3, dtype=torch.int8)}, "in int8, and nothing"),
    ],
    ids=["blocks", "no weight", "no scale"],
)
def test_what_cannot_be_scaled_is_refused(tmp_path, more, words):
    """As files in the formats MXFP8 and NVFP4 have it, a scale for each block of a row."""
    family = load_model(folder := tiny_pipeline())
    weights = family.checkpoint_weights(family.network)
    assert weights[f"{SCALED}.weight"].shape == (16, 16, 3, 3)
    save_file(weights | more, path := tmp_path / "m.safetensors")
    with pytest.raises(ModelError, match=words):
        load_model(path, config=str(folder))


def test_a_folders_weight_that_is_not_read_is_refused(tmp_path):
    save_tiny_pipeline(tmp_path)
    path = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(path) | {"conv_in.SCB": torch.zeros(1)}, path, {"format": "pt"})
    with pytest.raises(ModelError, match=r"not read, such as conv_in\.SCB"):
        load_model(tmp_path)


def test_a_token_of_several_vectors_is_encoded_as_diffusers_does(tmp_path):
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline())
    vectors = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    pipeline.load_textual_inversion({"<cat>": vectors}, token="<cat>")
    pipeline.save_pretrained(tmp_path)
    theirs = pipeline.encode_prompt("a <cat>", "cpu", 1, False)[0]
    mine = load_model(tmp_path).encode_prompts(["a <cat>"])["text"]
    torch.testing.assert_close(mine, theirs)


def test_a_file_with_numbers_in_its_metadata_loads(tmp_path):
    family = load_model(folder := tiny_pipeline())
    content = save(family.checkpoint_weights(family.network), {"format": "pt"})
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end]) | {"__metadata__": {"epoch": 3}}
    text = json.dumps(header).encode()
    path = tmp_path / "numbers.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])
    assert load_model(path, config=str(folder)).fingerprint == family.fingerprint
    assert load_skeleton(path, config=str(folder)).network.device.type == "meta"


@pytest.mark.parametrize(
    ("component", "key"),
    [
        ("vae", "first_stage_model."),
        ("vae", "first_stage_model.decoder.mid.attn_1.q.weight"),
        ("unet", "model.diffusion_model.out"),
        ("text_encoder", "cond_stage"),
        ("text_encoder", LAST_NORMS),
    ],
)
def test_a_file_without_a_component_is_refused(checkpoint, tmp_path, component, key):
    path, folder = checkpoint
    kept = {name: w for name, w in load_file(path).items() if not name.startswith(key)}
    save_file(kept, tmp_path / "component.safetensors")
    with pytest.raises(ModelError, match=rf"cannot load the {component}.*missing"):
        load_model(tmp_path / "component.safetensors", config=str(folder))


def test_a_truncated_file_is_refused(checkpoint, tmp_path):
    path, _ = checkpoint
    content = path.read_bytes()
    (tmp_path / "half.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"half.safetensors: it is damaged or was not copied"):
        load_model(tmp_path / "half.safetensors")


def test_a_pickled_file_is_loaded_only_when_asked_for(checkpoint, tmp_path):
    path, folder = checkpoint
    pickled = tmp_path / "model.ckpt"
    torch.save({"state_dict": load_file(path)}, pickled)
    with pytest.raises(ModelError, match=r"pickled.*set model.allow_pickle = true"):
        load_model(pickled, config=str(folder))
    family = load_model(pickled, config=str(folder), allow_pickle=True)
    assert family.fingerprint == load_model(folder).fingerprint


def test_what_is_no_pickle_of_weights_alone_is_refused(checkpoint, tmp_path):
    path, folder = checkpoint
    more, pointer = tmp_path / "more.ckpt", tmp_path / "pointer.ckpt"
    torch.save({"state_dict": load_file(path), "callbacks": recognise}, more)
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    for file in (more, pointer):
        with pytest.raises(ModelError, match=rf"{file.name}: .*more than weights.*convert it"):
            load_model(file, config=str(folder), allow_pickle=True)


def test_a_file_of_another_name_is_refused(checkpoint, tmp_path):
    path, folder = checkpoint
    (tmp_path / "model.SafeTensors").write_bytes(path.read_bytes())
    with pytest.raises(ModelError, match=r"'.SafeTensors': rename it to end in .safetensors"):
        load_model(tmp_path / "model.SafeTensors", config=str(folder))


def test_a_skeleton_is_built_as_the_folder_says_that_config_names():
    tiny = load_skeleton("me/fine-tune", config=str(tiny_pipeline()))
    assert tiny.network.config.cross_attention_dim == 16
    assert load_skeleton("me/fine-tune", config="sd21").network.config.sample_size == 96


@pytest.mark.parametrize("base", ["no.safetensors", "./typo-folder", "typo-folder"])
def test_a_skeleton_of_what_is_not_there_is_refused(base, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"there is no such file|there is no file or folder"):
        load_skeleton(base, config="sd15")


def test_the_architecture_is_recognised_by_the_weights():
    def weights(width, channels=4):
        return {FIRST_CONV: torch.empty(320, channels, 3, 3), PROMPT_KEY: torch.empty(320, width)}

    assert recognise(Path("a"), weights(768), {}) == "sd15"
    v = {"modelspec.architecture": "stable-diffusion-v2-768-v"}
    assert recognise(Path("a"), weights(1024), v) == "sd21"
    assert (
        recognise(Path("a"), weights(1024), {"modelspec.prediction_type": "epsilon"}) == "sd21-base"
    )
    with pytest.raises(ModelError, match=r"model.config = 'sd21' .*or 'sd21-base'"):
        recognise(Path("a"), weights(1024), {})
    with pytest.raises(ModelError, match="9 channels, as inpainting"):
        recognise(Path("a"), weights(768, channels=9), {})
    with pytest.raises(ModelError, match="no checkpoint of Stable Diffusion 1, 2 or XL"):
        recognise(Path("a"), {"conditioner.embedders.0": torch.empty(1)}, {})


def test_a_files_architecture_ships_with_us(tmp_path):
    path = tmp_path / "m.safetensors"
    first = {FIRST_CONV: torch.zeros(320, 4, 3, 3), PROMPT_KEY: torch.zeros(320, 768)}
    save_file(first, path)
    with pytest.raises(ModelError, match=r"cannot load the unet of .*684 of its weights"):
        load_skeleton(path)
    with pytest.raises(ModelError, match=r"model.config is 'sd3'; it has to be sd15, sd21-base"):
        load_model(path, config="sd3")


def test_the_skeleton_of_a_file_is_that_of_its_folder(checkpoint):
    path, folder = checkpoint
    mine, theirs = load_skeleton(path, config=str(folder)), load_skeleton(folder)
    assert [(name, weight.shape) for name, weight in weights_of(mine)] == [
        (name, weight.shape) for name, weight in weights_of(theirs)
    ]
    assert all(weight.is_meta for _, weight in weights_of(mine))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelError, match="there is no such file"):
        load_model(tmp_path / "no.safetensors")

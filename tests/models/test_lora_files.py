"""LoRA files of other programs change a model as those programs change it, or are named."""

import json
import warnings

import peft
import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, PeftModel
from safetensors.torch import load, save, save_file
from torch import nn

from fewstep.export.lora_formats import write_kohya_lora, write_peft_lora
from fewstep.models.base import ModelError
from fewstep.models.extra_loras import add_loras
from fewstep.models.ldm import unet_name
from fewstep.models.loading import load_model
from tests.artefacts import random_lora, tiny_family
from tests.tiny import tiny_pipeline, tiny_xl_pipeline

STRENGTH = 0.7


def lora_of(preset="attention", seed=1):
    return random_lora(tiny_family().network, preset, seed=seed)


def kohya(path, preset="attention"):
    """Write kohya's names with alpha half of the rank, and return what is in the file."""
    write_kohya_lora(path, lora_of(preset), {})
    tensors = {n: w / 2 if n.endswith(".alpha") else w for n, w in load(path.read_bytes()).items()}
    save_file(tensors, path)
    return tensors


def added(path, strength=STRENGTH):
    """Return UNet and text encoder with the LoRA added."""
    family = load_model(tiny_pipeline())
    family, network = add_loras(family, family.network, {str(path): strength})
    return network, family.text_encoder


def assert_equal(network: nn.Module, expected: nn.Module):
    weights, plain = expected.state_dict(), load_model(tiny_pipeline()).network.state_dict()
    for name, weight in network.state_dict().items():
        torch.testing.assert_close(weight, weights[name], rtol=1e-4, atol=1e-5)
    assert any(not torch.allclose(weights[name], plain[name], atol=1e-2) for name in plain)


@pytest.mark.parametrize("preset", ["attention", "all"])
def test_a_file_in_kohyas_names_changes_what_diffusers_changes(tmp_path, preset):
    kohya(path := tmp_path / "ink.safetensors", preset)
    pipe = StableDiffusionPipeline.from_pretrained(tiny_pipeline(), safety_checker=None)
    pipe.load_lora_weights(str(tmp_path), weight_name=path.name)
    pipe.fuse_lora(lora_scale=STRENGTH)
    pipe.unload_lora_weights()
    assert_equal(added(path)[0], pipe.unet)


@pytest.mark.parametrize(
    "renamed",
    [
        lambda module, factor: f"unet.{module}.lora_{factor}.weight",
        lambda module, factor: f"unet.{module}.lora.{'down' if factor == 'A' else 'up'}.weight",
        lambda module, factor: (
            f"unet.{module.removesuffix('.0').replace('.to_', '.processor.to_')}_lora."
            f"{'down' if factor == 'A' else 'up'}.weight"
        ),
        lambda module, factor: f"base_model.model.{module}.lora_{factor}.default.weight",
        lambda module, factor: (
            f"lora_unet_{unet_name(module, tiny_family().network.config).replace('.', '_')}"
            f".lora_{'down' if factor == 'A' else 'up'}.weight"
        ),
    ],
    ids=["diffusers", "diffusers before PEFT", "attention processors", "PEFT", "kohya with LDM's"],
)
def test_every_programs_names_are_the_same_lora(tmp_path, renamed):
    weights, expected = lora_of(), tmp_path / "kohya.safetensors"
    write_kohya_lora(expected, weights, {})
    tensors = {}
    for name, weight in weights.items():
        module, _, factor = name.removesuffix(".weight").rpartition(".lora_")
        tensors[renamed(module, factor)] = weight
    save_file(tensors, tmp_path / "other.safetensors")
    assert_equal(added(tmp_path / "other.safetensors")[0], added(expected)[0])


def test_pefts_own_folder_counts_with_its_alpha(tmp_path):
    family = load_model(tiny_pipeline())
    config = LoraConfig(r=4, lora_alpha=12, target_modules=["to_q", "to_v"],
                        init_lora_weights=False)  # fmt: skip
    model = peft.get_peft_model(family.network, config)
    model.save_pretrained(tmp_path)
    whole = PeftModel.from_pretrained(load_model(tiny_pipeline()).network, str(tmp_path))
    merged = whole.merge_and_unload()
    assert_equal(added(tmp_path / "adapter_model.safetensors", 1.0)[0], merged)


def test_the_peft_file_of_an_artefact_is_its_lora(tmp_path):
    write_peft_lora(tmp_path, lora_of())
    write_kohya_lora(tmp_path / "kohya.safetensors", lora_of(), {})
    ours = added(tmp_path / "adapter_model.safetensors")[0]
    assert_equal(ours, added(tmp_path / "kohya.safetensors")[0])


def test_the_alpha_in_diffusers_metadata_counts(tmp_path):
    weights = {f"unet.{name}": weight for name, weight in lora_of().items()}
    rank = len(next(w for n, w in weights.items() if ".lora_A." in n))
    save_file(weights, tmp_path / "plain.safetensors")
    told = {"lora_adapter_metadata": json.dumps({"unet.r": rank, "unet.lora_alpha": 3 * rank})}
    save_file(weights, tmp_path / "told.safetensors", told)
    three_times = added(tmp_path / "plain.safetensors", 3 * STRENGTH)[0]
    assert_equal(added(tmp_path / "told.safetensors")[0], three_times)


@pytest.mark.parametrize(
    "name",
    ["lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_{}.weight",
     "text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora.{}.weight",
     "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.{}.weight",
     "base_model.model.text_model.encoder.layers.0.self_attn.q_proj.lora_{}.weight"],
)  # fmt: skip
def test_a_layer_of_the_text_encoder_is_added(tmp_path, name):
    factors = ("A", "B") if name.startswith("base") else ("down", "up")
    down, up = torch.randn(2, 16), torch.randn(16, 2)
    tensors = {name.format(factors[0]): down, name.format(factors[1]): up}
    save_file(tensors, tmp_path / "words.safetensors")
    weights = added(tmp_path / "words.safetensors")[1].state_dict()
    plain = tiny_family().text_encoder.state_dict()
    (changed,) = (n for n in plain if not torch.equal(plain[n], weights[n]))
    assert changed.endswith("encoder.layers.0.self_attn.q_proj.weight")
    torch.testing.assert_close(weights[changed] - plain[changed], STRENGTH * up @ down)


def test_a_locon_convolution_is_the_product_of_its_three_factors(tmp_path):
    name, layer = "lora_unet_mid_block_resnets_0_conv1", "mid_block.resnets.0.conv1"
    down, mid, up = torch.randn(2, 32, 1, 1), torch.randn(2, 2, 3, 3), torch.randn(32, 2, 1, 1)
    parts = {"lora_down": down, "lora_mid": mid, "lora_up": up}
    save_file({f"{name}.{part}.weight": w for part, w in parts.items()}, tmp_path / "c.safetensors")
    conv = nn.functional.conv2d
    x = torch.randn(1, 32, 6, 6)
    expected = conv(conv(conv(x, down), mid, padding=1), up)
    network, plain = added(tmp_path / "c.safetensors", 1.0)[0], tiny_family().network
    change = network.get_submodule(layer).weight - plain.get_submodule(layer).weight
    torch.testing.assert_close(conv(x, change, padding=1), expected, rtol=1e-3, atol=1e-3)


def test_a_bundled_embedding_is_left_out_and_named(tmp_path, capsys):
    tensors = kohya(tmp_path / "ink.safetensors")
    bundle = {"bundle_emb.moss.string_to_param.*": torch.zeros(1, 16)}
    save_file(tensors | bundle, tmp_path / "bundle.safetensors")
    ours = added(tmp_path / "bundle.safetensors")[0]
    assert "without its embedding (moss)" in capsys.readouterr().err
    assert_equal(ours, added(tmp_path / "ink.safetensors")[0])


def test_numbers_in_the_metadata_are_no_damage(tmp_path):
    content = save(kohya(tmp_path / "ink.safetensors"), {"format": "pt"})
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] |= {"ss_epoch": 3, "ss_tags": ["ink"]}
    text = json.dumps(header).encode()
    path = tmp_path / "numbers.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])
    assert_equal(added(path)[0], added(tmp_path / "ink.safetensors")[0])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["lora_unet_x.hada_w1_a", "lora_unet_x.alpha"], "is a LoHa, which is not read here"),
        (["lora_unet_x.lokr_w1", "lora_unet_x.alpha"], "is a LoKr, which is not read here"),
        (["lora_unet_x.lora_down.weight", "lora_unet_x.dora_scale"], "is a DoRA"),
        (["oft_unet_x.oft_blocks"], "is an OFT"),
        (["lora_unet_x.diff", "lora_unet_x.diff_b"], "is a file of whole differences"),
        (["emb_params"], r"is an embedding \(textual inversion\)"),
        (["model.diffusion_model.out.2.bias"], "has no layer of a LoRA, but weights such as model"),
        (["lora_te2_x.lora_down.weight", "lora_te2_x.lora_up.weight"], "only 0 of the 1 layers"),
        (["lora_unet_mid_block_resnets_0_conv1.lora_up.weight"], "does not fit this model: its"),
    ],
)
def test_a_file_that_is_something_else_is_called_so(tmp_path, names, message):
    path = tmp_path / "style.safetensors"
    save_file({name: torch.zeros(2, 2) for name in names}, path)
    with pytest.raises(ModelError, match=message):
        added(path)


@pytest.mark.parametrize("pipeline", [tiny_pipeline, tiny_xl_pipeline])
def test_a_model_that_takes_a_lora_gives_no_advice_of_the_library(pipeline):
    family = load_model(pipeline())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert family.pipeline(family.network).components["unet"] is family.network

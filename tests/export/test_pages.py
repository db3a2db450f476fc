"""Cards, pages and workflows agree with the contract."""

import json
import re

import pytest
import torch
import yaml
from safetensors import safe_open

from fewstep.errors import UserError
from fewstep.evaluation.intervals import Interval
from fewstep.evaluation.results import Results, Row
from fewstep.export.artefact import Artefact, check_name, name_from, name_of
from fewstep.export.card import write_card
from fewstep.export.comfyui import workflow
from fewstep.export.metadata import kohya_header, modelspec, sidecar
from fewstep.methods import METHODS
from fewstep.student.contract import Contract
from tests.artefacts import tiny_artefact, tiny_contract
from tools.use_it_in import ROOT, pages


@pytest.mark.parametrize("path", pages())
def test_a_generated_page_is_up_to_date(path):
    assert (ROOT / path).read_text(encoding="utf-8") == pages()[path], "python -m tools.use_it_in"


INPUTS = {
    "LoraLoaderModelOnly": {"model": "MODEL"},
    "ModelSamplingDiscrete": {"model": "MODEL"},
    "CLIPTextEncode": {"clip": "CLIP"},
    "KSampler": {"model": "MODEL", "positive": "CONDITIONING", "negative": "CONDITIONING",
                 "latent_image": "LATENT"},
    "SamplerCustom": {"model": "MODEL", "positive": "CONDITIONING", "negative": "CONDITIONING",
                      "sampler": "SAMPLER", "sigmas": "SIGMAS", "latent_image": "LATENT"},
    "VAEDecode": {"samples": "LATENT", "vae": "VAE"},
    "SaveImage": {"images": "IMAGE"},
}  # fmt: skip
"""What ComfyUI's nodes take, from its own definitions."""


@pytest.mark.parametrize(
    ("method", "spacing", "nodes"),
    [
        ("multi-boundary-cd", "uniform", 8),
        ("cd", "uniform", 8),
        ("multi-boundary-cd", "quadratic", 10),
    ],
)
def test_a_workflow_is_wired_as_comfyui_wants_it(method, spacing, nodes):
    graph = json.loads(workflow(tiny_contract(method, spacing=spacing), "a.safetensors"))
    by_id = {node["id"]: node for node in graph["nodes"]}
    assert len(by_id) == nodes == graph["last_node_id"]
    for node in by_id.values():
        wanted = INPUTS.get(node["type"], {})
        assert {i["name"]: i["type"] for i in node["inputs"]} == wanted
    for number, source, slot, target, place, kind in graph["links"]:
        assert number in by_id[source]["outputs"][slot]["links"]
        assert by_id[source]["outputs"][slot]["type"] == kind
        assert by_id[target]["inputs"][place]["link"] == number
        assert by_id[target]["inputs"][place]["type"] == kind
    values = {node["type"]: node["widgets_values"] for node in by_id.values()}
    way = "euler" if method != "cd" else "lcm"
    if spacing == "uniform":
        assert values["KSampler"][2:] == [4, 1.0, way, "simple", 1.0]
    else:
        assert values["KSamplerSelect"] == [way]
        assert values["SamplerCustom"] == [True, 0, "fixed", 1.0]
    assert any("a.safetensors" in node["widgets_values"] for node in by_id.values())
    base = values["CheckpointLoaderSimple"][0]
    assert base.endswith(".safetensors"), "without it, the frontend reports no missing file"


def front_matter(text):
    return yaml.safe_load(text.split("---")[1])


def test_the_card_describes_the_student():
    metrics = {"frechet": Interval(1.2, 1.1, 1.3, 500)}
    row = Row("mine", "multi-boundary-cd", 4, 4, 0, metrics)
    results = Results("bundled", "evaluate", "c", "m", (row,))
    student = Artefact("a", tiny_contract(base="me/model"), {}, preview=b"PNG", license="mit",
                       settings="[method]\nname = 1", results=results)  # fmt: skip
    text = write_card(student)
    front = front_matter(text)
    assert (front["base_model"], front["base_model_relation"]) == ("me/model", "adapter")
    assert (front["license"], front["library_name"]) == ("mit", "diffusers")
    assert {"lora", "consistency-distillation"} <= set(front["tags"])
    for words in ("timesteps 999, 749, 499, 249", "guidance 4 is distilled",
                  "1.20 [1.10 to 1.30], n 500", "clean data, 249, 499, 749", "name = 1",
                  "![teacher and student](a.png)",
                  "seed 0", "images"):  # fmt: skip
        assert words in text


def test_the_card_of_a_local_base_names_no_path_and_guesses_no_license():
    text = write_card(Artefact("a-student", tiny_contract(base="/disk/me/models/mine"), {}))
    assert not {"base_model", "license"} & front_matter(text).keys()
    assert text.count("mine") == 3
    assert "/disk/me" not in text
    assert "It was not measured" in text
    trained_from_data = write_card(
        Artefact("a-student", tiny_contract("ct", guidance_scale=1.0), {})
    )
    assert "imitates the base model *without* guidance" in trained_from_data


def test_a_foreign_method_without_titles_is_exported_with_a_card(tmp_path, monkeypatch):
    for title in ("title", "full_title"):
        monkeypatch.delattr(METHODS["ct"], title)
    monkeypatch.setitem(METHODS, "mine", METHODS["ct"])
    folder = tiny_artefact(tmp_path, "mine", guidance_scale=1.0)
    text = (folder / "README.md").read_text()
    assert "made with fewstep by mine: no guidance" in text
    assert "trained on data alone" in text
    assert "`LCMScheduler`" in text


def test_an_artefact_holds_every_file_and_the_headers_name_no_path(tmp_path):
    folder = tiny_artefact(tmp_path)
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert names == {
        "fewstep.json", "README.md", "comfyui.json", "scheduler/scheduler_config.json",
        "pytorch_lora_weights.safetensors", "adapter_model.safetensors", "adapter_config.json",
        "tiny-student.safetensors", "tiny-student.json",
    }  # fmt: skip
    with safe_open(folder / "tiny-student.safetensors", "pt") as file:
        header = file.metadata()
    assert header["ss_output_name"] == "tiny-student", "A1111 calls it so"
    assert header["ss_network_dim"] == header["ss_network_alpha"] == "2"
    assert header["modelspec.usage_hint"].startswith("4 steps, CFG 1 (none)")
    assert (header["ss_mixed_precision"], header["modelspec.implementation"]) == ("no", "diffusers")
    assert "lora_adapter_metadata" not in header
    assert not [value for value in header.values() if re.search(r"[/\\]\w+[/\\]", value)]


@pytest.mark.parametrize(
    ("width", "prediction", "expected"),
    [
        (768, "epsilon", ("sd_v1", "False", "stable-diffusion-v1/lora", "SD1")),
        (1024, "epsilon", ("sd_v2", "True", "stable-diffusion-v2-512/lora", "SD2")),
        (1024, "v_prediction", ("sd_v2_v", "True", "stable-diffusion-v2-768-v/lora", "SD2")),
    ],
)
def test_the_header_names_the_stable_diffusion_it_is_for(config, width, prediction, expected):
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    lora = {
        f"{name}.lora_A.weight": torch.ones(2, width),
        f"{name}.lora_B.weight": torch.ones(8, 2),
    }
    contract = Contract.of("cd", METHODS["cd"](), 8.0, config | {"prediction_type": prediction})
    student = Artefact("a-student", contract, lora)
    names = ("ss_base_model_version", "ss_v2", "modelspec.architecture")
    version = json.loads(sidecar(student))["sd version"]
    assert (*(kohya_header(student)[name] for name in names), version) == expected
    unet = Artefact("a-student", contract, {f"{name}.weight": torch.ones(8, width)})
    assert modelspec(unet)["modelspec.architecture"] == expected[2].removesuffix("/lora")


@pytest.mark.parametrize(
    "name",
    [
        "fewstep",
        "ComfyUI",
        "readme",
        "pytorch_lora_weights",
        "adapter_model",
        "adapter_config",
        "my-scheduler",
        "Optimizer",
        "checkpoint-3",
        "sd-LCM",
        "a b",
        "../a",
        "",
        ".a",
    ],
)
def test_a_name_that_is_taken_or_misread_is_refused(name):
    with pytest.raises(UserError, match="--name is"):
        check_name(name)
    with pytest.raises(UserError, match="--name is"):
        Artefact(name, tiny_contract(), {})


@pytest.mark.parametrize("run", ["lcm", "optimizer", "прогон", "my-run", "lclcmm", "a/b.c"])
def test_a_name_made_of_a_runs_folder_is_one_that_may_be_given(run, tmp_path):
    check_name(name_from(tmp_path / run))


@pytest.mark.parametrize("name", ["fewstep-lion", "v1.5"])
def test_a_name_is_read_from_the_files(name):
    others = ["README.md", "adapter_model.safetensors", "fused/a-fused.safetensors",
              "model_index.json", "unet/config.json"]  # fmt: skip
    assert name_of([*others, f"{name}.png"]) == name
    assert name_of(others) is None

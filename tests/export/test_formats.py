"""Every LoRA file gives every reader the UNet that was trained, and a wrong file does not."""

import json

import pytest
from load_matrix import DTYPES, RESULTS, TOLERANCE, WRONG, write_files
from load_matrix_reader import READERS, error
from load_matrix_truth import ALPHA, RANK, output_of, thin_unet, trained
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fewstep.export.artefact import PEFT_CONFIG, PEFT_FILE
from fewstep.export.lora_formats import modules, write_kohya_lora
from fewstep.models.adapters import PRESETS, folded, merge_lora
from fewstep.models.ldm import unet_name
from fewstep.student.contract import LORA_FILE

NUM_MODULES = {"attention": 128, "transformer": 192, "all": 277}
CASES = [(preset, name) for preset in PRESETS for name in DTYPES]


def lora(preset):
    """Return what PEFT trained, folded, and the output that it leads to."""
    weights, truth = trained(tuple(PRESETS[preset]))
    return folded(weights, ALPHA / RANK), truth


@pytest.fixture(scope="module", params=CASES, ids=", ".join)
def case(request, tmp_path_factory):
    preset, name = request.param
    weights, truth = lora(preset)
    folder = tmp_path_factory.mktemp("files") / preset
    write_files(folder, {n: w.to(DTYPES[name]) for n, w in weights.items()}, truth)
    return folder, truth, TOLERANCE[name]


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_gets_the_unet_that_was_trained(case, reader):
    folder, _, tolerance = case
    assert error(reader, folder) <= tolerance


def test_the_pipelines_own_way_gets_it_too(case):
    folder, truth, tolerance = case
    weights = {n.removeprefix("unet."): w for n, w in load_file(folder / LORA_FILE).items()}
    assert (output_of(merge_lora(thin_unet(), weights)) - truth).abs().max() <= tolerance


@pytest.mark.parametrize("preset", PRESETS)
def test_the_lora_that_the_readers_are_held_against_changes_much(preset):
    assert (lora(preset)[1] - output_of(thin_unet())).abs().max() > 0.1


def not_folded(weights):
    return {n: w / (ALPHA / RANK) if ".lora_B." in n else w for n, w in weights.items()}


def without_a_module(weights):
    lost = modules(weights)[40]
    return {n: w for n, w in weights.items() if not n.startswith(f"{lost}.")}


@pytest.mark.parametrize("damage", [not_folded, without_a_module])
def test_a_wrong_file_is_seen_by_every_reader(tmp_path, damage):
    weights, truth = lora("all")
    write_files(tmp_path / "wrong", damage(weights), truth)
    for reader in READERS:
        assert error(reader, tmp_path / "wrong") > 1e-3, reader


def test_a_kohya_file_with_the_alpha_of_training_is_seen(tmp_path):
    write_files(tmp_path / "wrong", *lora("all"))
    path = tmp_path / "wrong" / "student.safetensors"
    save_file({n: w * 2 if n.endswith(".alpha") else w for n, w in load_file(path).items()}, path)
    assert error("diffusers, kohya file", tmp_path / "wrong") > 1e-3


ATTENTIONS = [
    *(f"{block}_attentions_{j}" for block in ("down_blocks_0", "down_blocks_1", "down_blocks_2")
      for j in range(2)),
    "mid_block_attentions_0",
    *(f"{block}_attentions_{j}" for block in ("up_blocks_1", "up_blocks_2", "up_blocks_3")
      for j in range(3)),
]  # fmt: skip
RESNETS = [
    *(f"down_blocks_{i}_resnets_{j}" for i in range(4) for j in range(2)),
    "mid_block_resnets_0", "mid_block_resnets_1",
    *(f"up_blocks_{i}_resnets_{j}" for i in range(4) for j in range(3)),
]  # fmt: skip
SHORTCUTS = ["down_blocks_1_resnets_0", *(name for name in RESNETS if name.startswith("up_"))]
KOHYA_NAMES = {
    "attention": {f"{place}_transformer_blocks_0_{attn}_{name}" for place in ATTENTIONS
                  for attn in ("attn1", "attn2")
                  for name in ("to_q", "to_k", "to_v", "to_out_0")},
    "transformer": {f"{place}_{name}" for place in ATTENTIONS
                    for name in ("proj_in", "proj_out", "transformer_blocks_0_ff_net_0_proj",
                                 "transformer_blocks_0_ff_net_2")},
    "all": {*(f"{place}_{name}" for place in RESNETS
              for name in ("conv1", "conv2", "time_emb_proj")),
            *(f"{place}_conv_shortcut" for place in SHORTCUTS),
            *(f"down_blocks_{i}_downsamplers_0_conv" for i in (0, 1, 2)),
            *(f"up_blocks_{i}_upsamplers_0_conv" for i in (0, 1, 2))},
}  # fmt: skip
"""What each preset adds, as kohya's scripts name it after "lora_unet_", written down from SD."""


@pytest.mark.parametrize("preset", PRESETS)
def test_every_key_of_a_kohya_file_is_a_module_of_ldm_and_none_is_left_over(tmp_path, preset):
    write_files(tmp_path / "files", *lora(preset))
    keys = load_file(tmp_path / "files" / "student.safetensors").keys()
    wanted = {
        f"lora_unet_{name}"
        for other in [*PRESETS][: [*PRESETS].index(preset) + 1]
        for name in KOHYA_NAMES[other]
    }
    ends = ("lora_down.weight", "lora_up.weight", "alpha")
    assert keys == {f"{name}.{end}" for name in wanted for end in ends}
    assert len(wanted) == NUM_MODULES[preset]
    unet = thin_unet()
    places = {
        "lora_unet_" + name.replace(".", "_"): unet_name(name, unet.config)
        for name, _ in unet.named_modules()
    }
    found = {places[name].split(".")[0] for name in wanted}
    assert found == {"input_blocks", "middle_block", "output_blocks"}
    assert len({places[name] for name in wanted}) == len(wanted)


def test_the_headers_hold_what_the_readers_allow(tmp_path):
    weights, truth = lora("attention")
    write_files(tmp_path / "files", weights, truth)
    with safe_open(tmp_path / "files" / "student.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "ss_output_name": "student"}
    for name in (LORA_FILE, PEFT_FILE):
        with safe_open(tmp_path / "files" / name, "pt") as file:
            assert file.metadata() == {"format": "pt"}, "adapter metadata breaks some versions"
    config = json.loads((tmp_path / "files" / PEFT_CONFIG).read_text())
    assert (config["r"], config["lora_alpha"]) == (RANK, RANK)
    assert config["target_modules"] == modules(weights)


def test_the_committed_matrix_is_whole_and_everything_in_it_loads():
    rows = json.loads(RESULTS.read_text())["rows"]
    assert all(row["loads"] == row["should_load"] for row in rows)
    assert {row["case"] for row in rows} == {*(", ".join(case) for case in CASES), WRONG}
    for case in {row["case"] for row in rows}:
        read = [(row["file"], row["reader"]) for row in rows if row["case"] == case]
        assert {name for name, _ in read} == {"diffusers file", "kohya file", "PEFT files"}
        assert {"diffusers 0.30.3", "PEFT 0.8.2"} <= {reader for _, reader in read}
        assert len(read) == 2 * len(READERS), "two environments"


def test_the_same_lora_is_the_same_file_whenever_it_is_written(tmp_path):
    """safetensors itself writes metadata in another order at every call."""
    weights, _ = lora("attention")
    header = {f"ss_{i}": f"value {i} é" for i in range(12)}
    for i in range(5):
        write_kohya_lora(tmp_path / f"{i}.safetensors", weights, header)
    assert len({(tmp_path / f"{i}.safetensors").read_bytes() for i in range(5)}) == 1
    with safe_open(tmp_path / "0.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"} | header
        name = next(name for name in file.keys() if name.endswith("lora_down.weight"))  # noqa: SIM118
        assert file.get_tensor(name).abs().sum() > 0

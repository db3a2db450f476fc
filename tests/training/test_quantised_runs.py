"""Runs whose frozen base is kept in 8 or 4 bits, from their settings to what they export."""

import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from fewstep.config import load_config
from fewstep.errors import Interrupted, SettingError
from fewstep.export.export import ExportOptions, export_artefact
from fewstep.models.loading import load_model
from fewstep.student.load import read_contract
from fewstep.training.distill import distill_run
from fewstep.training.plan import plan_run
from fewstep.training.settings import check_settings
from fewstep.training.step_cost import num_bytes
from tests.tiny import tiny_config, tiny_pipeline
from tests.training.test_distill import same, stop_after, weights
from tests.training.test_plan import SD15

KINDS = ("int8", "nf4")


def quantised(kind, method="multi-boundary-cd", **train):
    config = tiny_config(method, **train)
    return replace(config, model=replace(config.model, quantize=kind))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_on_a_quantised_base_continues_to_the_bit_and_exports_on_the_plain_base(
    tmp_path, kind
):
    config = quantised(kind, checkpointing="selective")
    distill_run(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        stop_after(3, signal.SIGTERM, config, tmp_path / "stopped")
    distill_run(config, tmp_path / "stopped")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))

    contract = read_contract(tmp_path / "whole" / "artefact")
    base = load_model(tiny_pipeline())
    assert contract.train["quantize"] == kind
    assert contract.base["fingerprint"] == base.fingerprint
    export_artefact(str(tmp_path / "whole"), tmp_path / "out", ExportOptions(fused=True))
    (path,) = (tmp_path / "out").rglob("unet/*.safetensors")
    found, lora = load_file(path), weights(tmp_path / "whole")
    for name, weight in base.network.state_dict().items():
        module, _, kind_of = name.rpartition(".")
        if kind_of == "weight" and f"unet.{module}.lora_A.weight" in lora:
            up, down = (lora[f"unet.{module}.lora_{x}.weight"] for x in "BA")
            weight = weight + (up.flatten(1) @ down.flatten(1)).view(weight.shape)
        torch.testing.assert_close(found[name], weight, rtol=1e-5, atol=1e-6)


def test_another_storage_of_the_base_is_another_run(tmp_path):
    distill_run(quantised("int8", steps=1), tmp_path / "run")
    with pytest.raises(SettingError, match=r"model.quantize = 'int8' there, 'nf4' here"):
        distill_run(quantised("nf4", steps=1), tmp_path / "run")


def test_a_whole_network_is_not_trained_in_eight_bits():
    with pytest.raises(SettingError, match=r"model.quantize is 'int8', and without \[adapter\]"):
        check_settings(replace(quantised("int8"), adapter=None))


def test_an_unknown_storage_is_refused(tmp_path):
    (tmp_path / "config.toml").write_text('[method]\nname = "cd"\n[model]\nquantize = "int4"\n')
    with pytest.raises(SettingError, match=r"model.quantize.*'int4'.*'int8'.*'nf4'"):
        load_config(tmp_path / "config.toml")


@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_counts_the_bytes_of_each_storage(kind):
    network = load_model(tiny_pipeline(), quantize=kind).network
    stored = num_bytes((*network.parameters(), *network.buffers()))
    assert plan_run(quantised(kind), on_cpu=True).cost.weights == stored
    assert stored < plan_run(tiny_config(), on_cpu=True).cost.weights / 2


AS_IT_IS, IN_INT8 = 0.0346, 0.1395
"""Shares of Stable Diffusion 1.5's UNet: its finest level, and what nf4 keeps in int8."""


@pytest.mark.parametrize(
    ("kind", "share"),
    [
        ("int8", AS_IT_IS + (1 - AS_IT_IS) / 2),
        ("nf4", AS_IT_IS + IN_INT8 / 2 + (1 - AS_IT_IS - IN_INT8) * 36 / 128),
    ],
)
def test_sd15_takes_the_bytes_of_its_formats(kind, share):
    sizes = [
        num_bytes((*network.parameters(), *network.buffers()))
        for network in (
            load_model(SD15.base, device="meta", dtype=torch.float16, quantize=quantize).network
            for quantize in ("none", kind)
        )
    ]
    assert sizes[0] == 2 * 859_520_964
    assert sizes[1] == pytest.approx(share * sizes[0], rel=3e-3)

"""The doctor names what does not fit, and whether a machine can train."""

import importlib
import json
from collections import namedtuple

import pytest
import torch
from packaging.version import Version
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel

from fewstep import doctor, versions
from fewstep.__main__ import run_command
from fewstep.doctor import (
    Finding,
    check_attention,
    check_versions,
    devices,
    disks,
    examine,
    imports,
    known_problems,
    verdict,
)
from fewstep.errors import SettingError
from fewstep.models.base import ModelError
from fewstep.models.loading import load_model
from fewstep.models.precision import multiplies_bf16, precision_for


@pytest.fixture
def installed(monkeypatch):
    """Pretend that other versions are installed."""

    def pretend(**others):
        real = importlib.metadata.version
        pretended = {name.replace("_", "-"): version for name, version in others.items()} | others
        monkeypatch.setattr(
            versions, "installed", lambda name: Version(pretended.get(name) or real(name))
        )

    return pretend


def test_this_machine_is_ready(tmp_path):
    findings = examine(tmp_path)
    assert [finding.name for finding in findings if finding.status == "bad"] == []
    assert verdict(findings).startswith("ready")
    assert {"Python", "torch", "processor", "disk for runs"} <= {found.name for found in findings}


@pytest.mark.parametrize(
    ("others", "bad"),
    [
        ({"diffusers": "0.30.3", "transformers": "5.1.0"}, "diffusers"),
        ({"torch": "2.4.1", "diffusers": "0.42.1"}, "torch"),
        ({"transformers": "4.57.0", "huggingface_hub": "2.0.0"}, "transformers"),
    ],
)
def test_a_known_bad_pair_is_named(installed, others, bad):
    installed(**others)
    (finding,) = [found for found in known_problems() if found.status == "bad"]
    assert finding.name == bad
    assert all(version in finding.message for version in others.values())
    assert verdict([finding]).startswith(f"not ready: fix {bad}")


@pytest.mark.parametrize("diffusers", ["0.37.0", "0.38.0", "0.40.0"])
def test_a_pair_that_works_in_part_is_a_limit(installed, diffusers):
    installed(diffusers=diffusers, transformers="5.6.0")
    (finding,) = known_problems()
    assert (finding.name, finding.status) == ("diffusers", "slow")
    assert f"{diffusers} with transformers 5.6.0: diffusers itself cannot" in finding.message
    installed(diffusers="0.41.0", transformers="5.6.0")
    assert not list(known_problems())


def test_the_tested_bundles_are_no_bad_pairs(installed):
    installed(torch="2.4.1", diffusers="0.30.3", transformers="4.44.2", peft="0.8.2",
              huggingface_hub="0.24.6")  # fmt: skip
    assert [finding.status for finding in known_problems()] == ["slow"], "PEFT before 0.14"


def test_a_model_that_loads_badly_for_its_libraries_is_not_blamed(installed, monkeypatch):
    """As transformers 5.6 and diffusers 0.37 fail, which are not on this machine."""

    def fails(*_, **__):
        raise AttributeError("'CLIPTextModel' object has no attribute 'text_model'")

    monkeypatch.setattr(CLIPTextModel, "from_pretrained", fails)
    with pytest.raises(ModelError, match=r"has to be a diffusers folder") as refused:
        load_model("bundled")
    installed(diffusers="0.37.0", transformers="5.6.0")
    with pytest.raises(ModelError) as refused:
        load_model("bundled")
    message = str(refused.value)
    assert "no attribute 'text_model'), most likely for the libraries' versions: " in message
    assert "diffusers 0.37.0 with transformers 5.6.0: diffusers itself cannot load" in message
    assert "has to be a diffusers folder" not in message


def test_a_command_that_cannot_import_its_libraries_names_the_pair(installed, monkeypatch, capsys):
    def fails():
        raise RuntimeError("Failed to import diffusers.pipelines: no FLAX_WEIGHTS_NAME")

    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(RuntimeError):  # which is no known one's fault
        run_command(fails)
    installed(diffusers="0.30.3", transformers="5.1.0")
    with pytest.raises(SystemExit) as left:
        run_command(fails)
    error = capsys.readouterr().err
    assert left.value.code == 2
    assert error.startswith(
        "fewstep: diffusers 0.30.3 with transformers 5.1.0: diffusers cannot be"
    )
    assert "use the tested versions in constraints/ (Failed to import diffusers.pipelines" in error


def test_a_version_below_the_floor_is_named(installed):
    installed(safetensors="0.3.0")
    finding, *_ = [f for f in check_versions() if (f.name, f.status) == ("safetensors", "bad")]
    assert finding.message.startswith("0.3.0; fewstep needs >=0.4.4")


def test_a_library_that_cannot_be_imported_is_reported_with_its_own_message(monkeypatch):
    def broken(name):
        if name == "peft":
            raise RuntimeError("no such operator:\n torchvision::nms")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    (finding,) = imports()
    assert (finding.name, finding.message) == ("import peft", "no such operator: torchvision::nms")
    assert (
        verdict([finding]) == "not ready: fix import peft; use the tested versions in constraints/"
    )


@pytest.mark.parametrize(
    ("free", "expected", "sentence"),
    [(10**9, "slow", "ready, with limits: disk"), (0, "bad", "not ready: fix disk")],
)
def test_a_full_disk_is_a_limit_and_without_any_space_nothing_works(
    tmp_path, monkeypatch, free, expected, sentence
):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(free))
    runs, models = disks(tmp_path / "not yet there")
    assert (runs.status, f"{free // 10**9} GB free" in runs.message) == (expected, True)
    assert verdict([runs]).startswith(sentence)
    summary = verdict([runs, models])
    assert "constraints" not in summary, "other versions free no space"
    assert ("or set HF_HOME to a folder on another disk" in summary) == (expected == "bad")


def test_each_fix_is_named_once(installed):
    installed(safetensors="0.3.0", pillow="1.0.0")
    bad = [finding for finding in check_versions() if finding.status == "bad"]
    full = Finding("disk for runs", "0 GB free", "bad", "free disk space")
    sentence = verdict([*bad, full])
    assert {"safetensors", "pillow"} <= {finding.name for finding in bad}
    assert sentence.endswith(
        "disk for runs; use the tested versions in constraints/; free disk space"
    )


def test_attention_is_computed_and_its_kernel_is_torchs_choice(monkeypatch):
    assert check_attention("cpu", "fp32").message == "works in fp32, kernel flash attention"
    with sdpa_kernel(SDPBackend.MATH):
        assert check_attention("cpu", "fp32") == Finding(
            "attention on cpu", "works in fp32, kernel math", "slow"
        )

    def no_kernel(*args):
        raise RuntimeError("CUDA error: no kernel image is available\nfor execution")

    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", no_kernel)
    found = check_attention("cpu", "fp32")
    assert (found.status, "no kernel image is available for" in found.message) == ("bad", True)


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "fp16"), ((8, 0), "bf16")])
def test_precision_is_chosen_by_compute_capability(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert precision_for("auto", "cuda") == precision
    assert precision_for("auto", "cpu") == "fp32"
    assert precision_for("mixed", "cpu") == "mixed"
    with pytest.raises(SettingError, match="'mixed', which is for a CPU"):
        precision_for("mixed", "cuda")


def test_a_processor_multiplies_bf16_where_it_takes_half_of_the_time(monkeypatch):
    """By a clock that a product of each type moves by so many seconds, and by this processor's."""
    for seconds, expected in (({torch.float32: 2.0, torch.bfloat16: 1.0}, True),
                              ({torch.float32: 1.0, torch.bfloat16: 0.6}, False)):  # fmt: skip
        clock = [0.0]

        def product(matrix, other, seconds=seconds, clock=clock):
            clock[0] += seconds[matrix.dtype]

        with monkeypatch.context() as patch:
            patch.setattr(torch, "mm", product)
            patch.setattr("fewstep.models.precision.time.perf_counter", lambda c=clock: c[0])
            assert multiplies_bf16.__wrapped__() is expected
    assert multiplies_bf16() is multiplies_bf16()


def test_a_gpu_is_named_with_the_configs_for_its_size(monkeypatch):
    gib, work = 2**30, Finding("attention on cuda:0", "works")
    monkeypatch.setattr(doctor, "check_attention", lambda device, precision: work)
    for name, value in (("is_available", True), ("device_count", 1)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    for name, value in (
        ("get_device_capability", (8, 6)), ("get_device_name", "NVIDIA GeForce RTX 3060"),
        ("mem_get_info", (11 * gib, int(11.76 * gib))),
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    found = {finding.name: finding.message for finding in devices()}
    assert "RTX 3060, capability 8.6, 11.0 of 11.8 GiB free; trains in bf16" in found["GPU 0"]
    told = found["configs for GPU 0"]
    assert told == "sd15-8gb for Stable Diffusion 1 and 2, sdxl-12gb for XL"


def test_programs_read_the_findings_as_json(monkeypatch, typed):
    findings = [Finding("torch", "2.0; needs 2.4", "bad", "update it"), Finding("Python", "3.12")]
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    code, output = typed("doctor", "--json")
    told = json.loads(output)
    assert (code, told["verdict"]) == (2, verdict(findings))
    assert [Finding(**one) for one in told["findings"]] == findings

"""The doctor names what does not fit, and says plainly whether a machine can train."""

import importlib
from collections import namedtuple

import pytest
import torch
from packaging.version import Version
from torch.nn.attention import SDPBackend, sdpa_kernel

from fewstep import doctor
from fewstep.doctor import Finding, computes, disks, examine, imports, pairs, verdict, versions
from fewstep.models.precision import precision_for


@pytest.fixture
def installed(monkeypatch):
    """Pretend that other versions are installed."""

    def pretend(**others):
        real = importlib.metadata.version
        told = {name.replace("_", "-"): version for name, version in others.items()} | others
        monkeypatch.setattr(doctor, "installed", lambda name: Version(told.get(name) or real(name)))

    return pretend


def test_this_machine_is_well(tmp_path):
    findings = examine(tmp_path)
    assert [finding.what for finding in findings if finding.verdict == "bad"] == []
    assert verdict(findings).startswith("ready")
    assert {"Python", "torch", "processor", "disk for runs"} <= {found.what for found in findings}


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
    (finding,) = [found for found in pairs() if found.verdict == "bad"]
    assert finding.what == bad
    assert all(version in finding.told for version in others.values())
    assert verdict([finding]).startswith(f"not ready: mend {bad}")


def test_the_tested_bundles_are_no_bad_pairs(installed):
    installed(torch="2.4.1", diffusers="0.30.3", transformers="4.44.2", peft="0.8.2",
              huggingface_hub="0.24.6")  # fmt: skip
    assert [finding.verdict for finding in pairs()] == ["slow"], "PEFT before 0.14"


def test_a_version_below_the_floor_is_named(installed):
    installed(safetensors="0.3.0")
    finding, *_ = [f for f in versions() if (f.what, f.verdict) == ("safetensors", "bad")]
    assert finding.told.startswith("0.3.0; fewstep needs >=0.4.4")


def test_a_library_that_cannot_be_imported_is_told_in_its_own_words(monkeypatch):
    def broken(name):
        if name == "peft":
            raise RuntimeError("no such operator:\n torchvision::nms")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    (finding,) = imports()
    assert (finding.what, finding.told) == ("import peft", "no such operator: torchvision::nms")
    assert verdict([finding]) == "not ready: mend import peft; constraints/ has tested versions"


@pytest.mark.parametrize(
    ("free", "expected", "sentence"),
    [(10**9, "slow", "ready, with limits: disk"), (0, "bad", "not ready: mend disk")],
)
def test_a_full_disk_is_a_limit_and_without_any_room_nothing_goes(
    tmp_path, monkeypatch, free, expected, sentence
):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(free))
    runs, models = disks(tmp_path / "not yet there")
    assert (runs.verdict, f"{free // 10**9} GB free" in runs.told) == (expected, True)
    assert verdict([runs]).startswith(sentence)
    told = verdict([runs, models])
    assert "constraints" not in told, "no other versions make room"
    assert ("or set HF_HOME to a folder on another disk" in told) == (expected == "bad")


def test_each_way_out_is_said_once(installed):
    installed(safetensors="0.3.0", pillow="1.0.0")
    bad = [finding for finding in versions() if finding.verdict == "bad"]
    full = Finding("disk for runs", "0 GB free", "bad", "make room")
    told = verdict([*bad, full])
    assert {"safetensors", "pillow"} <= {finding.what for finding in bad}
    assert told.endswith("disk for runs; constraints/ has tested versions; make room")


def test_attention_is_computed_and_its_kernel_is_torchs_choice(monkeypatch):
    assert computes("cpu", "fp32").told == "computed in fp32, kernel flash attention"
    with sdpa_kernel(SDPBackend.MATH):
        assert computes("cpu", "fp32") == Finding(
            "attention on cpu", "computed in fp32, kernel math", "slow"
        )

    def no_kernel(*args):
        raise RuntimeError("CUDA error: no kernel image is available\nfor execution")

    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", no_kernel)
    found = computes("cpu", "fp32")
    assert (found.verdict, "no kernel image is available for" in found.told) == ("bad", True)


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "fp16"), ((8, 0), "bf16")])
def test_precision_is_chosen_by_compute_capability(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert precision_for("auto", "cuda") == precision
    assert precision_for("auto", "cpu") == "fp32"

"""Every program is told the student's own timesteps, or what it does instead."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from diffusers import EulerDiscreteScheduler

from fewstep.export.comfyui import workflow
from fewstep.export.metadata import sidecar
from fewstep.export.programs_run import DERIVED, HERE, RUN, sources_line
from fewstep.export.sampling_guides import guide_table
from fewstep.methods import METHODS
from fewstep.student.contract import Contract
from fewstep.student.other_programs import scheduler_config, simple_starts
from tests.artefacts import tiny_contract, tiny_student
from tools.figures import RESULTS


@pytest.mark.parametrize(
    ("total", "num_steps", "starts"),
    [
        (1000, 4, (999, 749, 499, 249)),
        (1000, 3, (999, 666, 333)),
        (1000, 2, (999, 499)),
    ],
)
def test_the_schedule_simple_starts_where_comfyuis_code_does(total, num_steps, starts):
    assert simple_starts(total, num_steps) == starts


def guide_of(contract, program):
    """Return a program's row of the table."""
    head, _, *rows = (
        line[2:-2].split(" | ") for line in guide_table(contract, "a-student").splitlines()
    )
    return next(SimpleNamespace(**dict(zip(head, r, strict=True))) for r in rows if r[0] == program)


def test_the_guides_follow_the_contract():
    four, three = tiny_contract(), tiny_contract(num_segments=3, num_solver_steps=39)
    assert guide_of(four, "ComfyUI").result == guide_of(four, "diffusers alone").result == "exact"
    assert guide_of(three, "ComfyUI").result == "near: starts at 999, 666, 333"
    assert guide_of(three, "diffusers alone").result.startswith("near")
    assert "3 steps" in guide_of(three, "A1111, Forge").settings
    assert "starts at 999, 666, 333, 0" in guide_of(four, "stable-diffusion.cpp").otherwise
    cd = guide_of(tiny_contract("cd", num_solver_steps=50), "diffusers alone")
    assert "original_inference_steps=50" in cd.settings


def test_invokeai_is_told_a_scheduler_and_what_its_first_noise_is(config):
    """It multiplies the noise by sigma of the first timestep, and has its own default scheduler."""
    sigma = np.sqrt(1 - np.prod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2))
    for method, sampler in (("multi-boundary-cd", "DDIM"), ("cd", "LCM")):
        guide = guide_of(tiny_contract(method), "InvokeAI")
        assert f"scheduler {sampler}, 4 steps" in guide.settings
        assert guide.result == f"near: it multiplies the first noise by {sigma:.4f}"
    contract = Contract.of("cd", METHODS["cd"](), 8.0, config | ZERO_SNR)
    assert guide_of(contract, "InvokeAI").result == "exact"


@pytest.mark.parametrize("method", ["multi-boundary-cd", "cd"])
def test_the_notes_for_a1111_name_what_is_set_there(method):
    notes = json.loads(sidecar(tiny_student(tiny_contract(method))))["notes"]
    assert '"SGM noise multiplier" on' in notes
    assert "schedule type Simple" in notes
    assert ("LCM" in notes) == (method == "cd")
    uneven = tiny_student(tiny_contract(method, num_solver_steps=16, spacing="quadratic"))
    assert (
        "timesteps 999, 561, 249, 61, which cannot be set" in json.loads(sidecar(uneven))["notes"]
    )


def test_every_scheduler_file_says_that_nothing_is_clipped():
    """OpenVINO GenAI refuses a config without it."""
    for method in ("multi-boundary-cd", "cd"):
        assert scheduler_config(tiny_contract(method))["clip_sample"] is False


@pytest.mark.parametrize(
    ("method", "scheduler"),
    [("multi-boundary-cd", "Euler"), ("cd", "LCM")],
)
def test_programs_get_timesteps_that_are_not_even(method, scheduler):
    contract = tiny_contract(method, num_solver_steps=16, spacing="quadratic")
    stock = guide_of(contract, "diffusers alone")
    assert scheduler in stock.settings
    assert "timesteps=[999, 561, 249, 61]" in stock.settings
    assert stock.result == "exact"
    assert guide_of(contract, "ComfyUI").result == "exact"
    assert guide_of(contract, "InvokeAI").result.startswith("it takes no timesteps")
    nodes = {n["type"]: n for n in json.loads(workflow(contract, "a.safetensors"))["nodes"]}
    levels = [float(level) for level in nodes["ManualSigmas"]["widgets_values"][0].split(",")]
    euler = EulerDiscreteScheduler.from_config(contract.scheduler_config)
    euler.set_timesteps(timesteps=[999, 561, 249, 61])
    np.testing.assert_allclose(levels, euler.sigmas, rtol=1e-5)


V_PREDICTION = {"prediction_type": "v_prediction"}
ZERO_SNR = V_PREDICTION | {"rescale_betas_zero_snr": True}


@pytest.mark.parametrize(
    ("method", "scheduler", "node", "result"),
    [
        ("multi-boundary-cd", {}, None, "exact"),
        ("multi-boundary-cd", V_PREDICTION, ["v_prediction", False], "exact"),
        ("multi-boundary-cd", ZERO_SNR, ["v_prediction", True], "not measured"),
        ("cd", {}, None, "exact"),
        ("cd", V_PREDICTION, ["v_prediction", False], "exact"),
        ("cd", ZERO_SNR, ["v_prediction", True], "not measured"),
    ],
)
def test_comfyui_gets_the_networks_prediction_type(config, method, scheduler, node, result):
    contract = Contract.of(method, METHODS[method](), 8.0, config | scheduler)
    nodes = {n["type"]: n for n in json.loads(workflow(contract, "a.safetensors"))["nodes"]}
    assert nodes.get("ModelSamplingDiscrete", {}).get("widgets_values") == node
    guide = guide_of(contract, "ComfyUI")
    assert guide.result == result
    assert ("`zsnr` on" in guide.settings) == (scheduler == ZERO_SNR)
    if scheduler == ZERO_SNR:
        assert guide_of(contract, "stable-diffusion.cpp").result == "not measured"
        assert guide_of(contract, "diffusers alone").result == "exact"


def test_every_row_says_whether_it_was_run_and_those_that_were_have_their_results():
    rows = json.loads((RESULTS / "programs.json").read_text(encoding="utf-8"))["rows"]
    names = {
        "comfyui": "ComfyUI",
        "invokeai": "InvokeAI",
        "openvino-genai": "OpenVINO GenAI",
        "onnx-runtime": "ONNX Runtime",
        "stable-diffusion.cpp": "stable-diffusion.cpp",
        "sd-scripts": None,  # it merges, and samples nothing
    }
    students = {"multi-boundary-cd": "deterministic", "cd": "stochastic", "quadratic": "quadratic"}
    ran = {}
    for row in rows:
        kind, ((package, version), *_) = students.get(row["student"]), row["versions"].items()
        name = names.get(row["program"], "diffusers alone")
        if name and kind and row["verdict"] == "right":
            version = f"{package} {version}" if name == "stable-diffusion.cpp" else version
            ran.setdefault(kind, {}).setdefault(name, []).append(version)
    whole = {
        kind: {name: " to ".join(dict.fromkeys((min(v), max(v)))) for name, v in programs.items()}
        for kind, programs in ran.items()
    }
    assert whole == RUN
    quadratic = tiny_contract(spacing="quadratic")
    assert guide_of(quadratic, "ComfyUI").source == f"run: {RUN['quadratic']['ComfyUI']}"
    assert guide_of(quadratic, "diffusers alone").source == DERIVED
    assert guide_of(tiny_contract("cd"), "InvokeAI").source == "run: 6.14.2"
    assert guide_of(tiny_contract("cd"), "Draw Things").source == DERIVED
    assert guide_of(tiny_contract("cd"), "PEFT").source == HERE
    assert "ComfyUI 0.3.64" in sources_line(tiny_contract("cd"))

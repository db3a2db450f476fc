"""Nothing to wait for: what a command does not need is not loaded, and what is slow says so."""

import os
import subprocess
import sys

import pytest

from tests.data.samples import folder_of

LOADED = """
import sys
from fewstep.__main__ import main
try:
    main()
except SystemExit:
    pass
print(*sys.modules)
"""

MODELS = {"diffusers", "peft", "accelerate", "torch._dynamo", "sympy"}
"""What comes with diffusers' networks."""

NEVER = {"scipy", "pandas", "sklearn", "datasets", "bitsandbytes", "gradio", "matplotlib",
         "openvino", "torch._inductor.compile_fx"}  # fmt: skip
"""What no image and no plan needs."""


def loaded_by(*arguments, folder):
    """Return the modules that a command loads, and what it says on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return set(done.stdout.splitlines()[-1].split()), done.stderr


def processor_seconds(*command):
    """Return the user and system seconds of a command that ends, whatever its exit code."""
    program = (
        "import os, subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]], "
        "capture_output=True); spent = os.times(); "
        "print(spent.children_user + spent.children_system)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *command], check=True, capture_output=True, text=True
    )
    return float(done.stdout)


REFUSED = {
    "a method's name": ("distill", "bundled-cd", "--set", "method.name=lcm"),
    "a value out of range": ("distill", "bundled-cd", "--set", "train.batch_size=0"),
    "a setting's name": ("plan", "bundled-cd", "--set", "train.stesp=3"),
    "a file that is missing": ("prepare", "missing.toml"),
    "an option": ("distill", "bundled-cd", "--stesp", "3"),
    "no prompt": ("sample", "bundled"),
    "a format": ("sample", "bundled", "a red heart", "-o", "out.jpg"),
    "a word": ("sample", "bundled", "a lighthouse at dusk"),
    "no source": ("evaluate",),
}


@pytest.mark.parametrize("arguments", REFUSED.values(), ids=REFUSED)
def test_what_can_be_refused_without_a_model_is_refused_before_torch(arguments, tmp_path):
    loaded, said = loaded_by(*arguments, folder=tmp_path)
    assert not loaded & {"torch", "transformers", *MODELS, *NEVER}
    assert said
    assert "loading" not in said


@pytest.mark.parametrize("arguments", [("--help",), ("ui", "--help"), ("--version",)])
def test_help_loads_no_library(arguments, tmp_path):
    loaded, _ = loaded_by(*arguments, folder=tmp_path)
    assert not loaded & {"torch", "numpy", "PIL", "transformers", *MODELS, *NEVER}


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [REFUSED["a method's name"], ("--help",)], ids=" ".join)
def test_a_wrong_setting_and_help_cost_a_third_of_importing_torch_at_most(arguments):
    refused = min(processor_seconds("-m", "fewstep", *arguments) for _ in range(2))
    assert refused < 0.36 * min(processor_seconds("-c", "import torch") for _ in range(2))


def test_looking_at_data_loads_a_tokenizer_and_no_model(tmp_path):
    folder_of(tmp_path / "images", 2)
    loaded, said = loaded_by("data", "check", "images", folder=tmp_path)
    assert "transformers" in loaded
    assert not loaded & {*MODELS, *NEVER}
    assert "loading the libraries" in said.splitlines()[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [("sample", "bundled", "a red heart", "--steps", 2), ("plan", "bundled-cd")],
    ids=("sample", "plan"),
)  # fmt: skip
def test_a_model_needs_its_networks_and_no_pipeline(arguments, tmp_path):
    loaded, said = loaded_by(*arguments, folder=tmp_path)
    assert "diffusers.models.unets.unet_2d_condition" in loaded
    assert not loaded & {"diffusers.pipelines.pipeline_utils", *NEVER}
    assert "loading the libraries" in said.splitlines()[0]


NETWORKS = """
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer
"""


@pytest.mark.slow
def test_an_image_costs_little_more_than_importing_the_networks_classes(tmp_path):
    sampled = ("sample", "bundled", "a red heart", "--steps", "4", "-o", str(tmp_path / "o.png"))
    image = min(processor_seconds("-m", "fewstep", *sampled) for _ in range(2))
    assert image < 1.5 * min(processor_seconds("-c", NETWORKS) for _ in range(2))

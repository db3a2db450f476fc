"""Models at full size go the whole way on a CPU, in the memory that was planned."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewstep.training.plan import plan_run
from tests.training.full_size import config

ROOT = Path(__file__).parents[2]


def in_a_process(*arguments):
    """Run a command of tests.training.full_size and return what it says.

    Freed tensors go back to the system at once: glibc keeps the holes between them by default.
    """
    command = [sys.executable, "-m", "tests.training.full_size", *map(str, arguments)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20)},
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "one.png")
    (folder / "one.txt").write_text("a lighthouse")
    return folder


def trained(checkpoint, images, run):
    """Return what a step was planned to take, and what training and sampling say."""
    in_a_process("write", checkpoint)
    planned = plan_run(config(checkpoint, images), on_cpu=True)
    told = in_a_process("train", checkpoint, images, run)
    return planned.cost.bytes, told, in_a_process("sample", run)


@pytest.mark.slow
def test_sd15_is_loaded_cached_trained_saved_and_sampled_within_16_gb(tmp_path, images):
    planned, told, sampled = trained(tmp_path / "sd15.safetensors", images, tmp_path / "run")
    assert (told["steps"], sampled["size"]) == (2, [256, 256])
    assert max(part["peak_of_all"] for part in (told, sampled)) < 16e9
    assert planned == pytest.approx(told["peak"], rel=0.15)


@pytest.mark.slow
def test_sdxl_is_trained_saved_and_read_by_stock_diffusers_within_24_gb(tmp_path, images):
    run, out = tmp_path / "run", tmp_path / "out"
    planned, told, sampled = trained(tmp_path / "sdxl.safetensors", images, run)
    assert (told["steps"], sampled["size"]) == (1, [256, 256])
    exported = in_a_process("export", run, out)
    read = in_a_process("diffusers", out / "fused" / "diffusers")
    assert (read["class"], read["size"]) == ("StableDiffusionXLPipeline", [256, 256])
    assert max(part["peak_of_all"] for part in (told, sampled, exported, read)) < 24e9
    assert planned == pytest.approx(told["peak"], rel=0.15)

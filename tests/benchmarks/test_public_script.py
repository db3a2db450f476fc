"""The public script's row: what it is given, and how what it leaves is sampled."""

import io
import json
import shutil
import sys
import tarfile

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from benchmarks import public_script
from benchmarks.public_script import (
    Script,
    pipeline_of,
    sample,
    shard,
    with_more_positions,
)
from benchmarks.students import CORE_SECONDS
from fewstep.errors import UserError
from fewstep.evaluation.results import load
from fewstep.models.loading import bundled_folder
from fewstep.world.captions import describe
from fewstep.world.scenes import render, sample_scene

STAND_IN = """
import sys
from diffusers import UNet2DConditionModel
from peft import LoraConfig, get_peft_model
given = dict(word.removeprefix("--").split("=") for word in sys.argv[1:])
unet = UNet2DConditionModel.from_pretrained(given["pretrained_teacher_model"], subfolder="unet")
unet = get_peft_model(unet, LoraConfig(r=2, target_modules=["to_q"]))
unet.save_pretrained(given["output_dir"])
"""
"""What the script leaves in its folder: an adapter, here one that changes nothing."""


def script(tmp_path, **changes):
    given = {"path": tmp_path / "script.py", "python": sys.executable, "folder": tmp_path / "runs",
             "num_pairs": 4, "num_steps": 3, "batch_size": 2, "learning_rate": 1e-4,
             "guidance_scale": 2.0, "seed": 5} | changes  # fmt: skip
    return Script(**given)


def interpreter(path, command):
    """Write a program that starts Python by a command, and return its path."""
    path.write_text(f'#!/bin/sh\n{command} "$@"\n')
    path.chmod(0o755)
    return str(path)


def test_the_script_gets_as_many_samples_and_the_guidance_of_our_students(tmp_path):
    words = script(tmp_path).words
    assert words[:2] == [sys.executable, str(tmp_path / "script.py")]
    given = dict(word.removeprefix("--").split("=") for word in words[2:])
    assert given["max_train_samples"] == "6"
    assert given["w_min"] == given["w_max"] == "1.0", "its w is guidance less 1"
    assert int(given["validation_steps"]) > int(given["max_train_steps"])


def test_a_script_that_is_not_there_or_cannot_run_is_refused_before_any_work(tmp_path):
    with pytest.raises(UserError, match=r"script\.py is no file; give the path"):
        script(tmp_path).check()
    (tmp_path / "script.py").write_text("")
    with pytest.raises(UserError, match=r"--python /nowhere/python cannot be started: .*No such"):
        script(tmp_path, python="/nowhere/python").check()
    bare = interpreter(tmp_path / "bare", f"exec {sys.executable} -S")
    with pytest.raises(UserError, match=r"needs \(ModuleNotFoundError: No module named '"):
        script(tmp_path, python=bare).check()
    for name in ("torchvision", "braceexpand", "webdataset"):
        (tmp_path / f"{name}.py").write_text("__version__ = '0.2.100'")
    python = interpreter(tmp_path / "python", f"PYTHONPATH={tmp_path} exec {sys.executable}")
    with pytest.raises(
        UserError, match=r"has webdataset 0\.2\.100, .*install webdataset==0\.2\.86"
    ):
        script(tmp_path, python=python).check()
    (tmp_path / "webdataset.py").write_text("__version__ = '0.2.86'")
    script(tmp_path, python=python).check()


def test_a_shard_holds_the_students_scenes():
    with tarfile.open(fileobj=io.BytesIO(shard(3))) as tar:
        names = tar.getnames()
        files = {name: tar.extractfile(name).read() for name in names}
    assert names == [f"{i:06d}.{end}" for i in range(3) for end in ("png", "txt")]
    rng = np.random.default_rng([1_000_081, 0, 2])
    scene = sample_scene(rng)
    assert files["000002.txt"].decode() == describe(scene, rng)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(files["000002.png"]))), render(scene))


@pytest.mark.slow
def test_the_longer_empty_prompt_guides_as_the_models_own_and_captions_are_read_as_before():
    pipeline = StableDiffusionPipeline.from_pretrained(bundled_folder(), local_files_only=True)
    encoder, unet = pipeline.text_encoder.float(), pipeline.unet.float()

    def tokens(text, length):
        settings = {"padding": "max_length", "max_length": length, "return_tensors": "pt"}
        return pipeline.tokenizer([text], **settings).input_ids

    longer = with_more_positions(pipeline)
    size = unet.config.sample_size
    x_t = torch.randn(4, 4, size, size, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        caption = encoder(tokens("a red heart above a blue star", 27))[0]
        torch.testing.assert_close(longer(tokens("a red heart above a blue star", 27))[0], caption)
        own, padded = encoder(tokens("", 27))[0], longer(tokens("", 77))[0]
        assert padded.shape[1] == 77
        for t in (100, 400, 999):
            eps, other, cond = (
                unet(x_t, t, encoder_hidden_states=text.expand(4, -1, -1)).sample
                for text in (own, padded, caption)
            )
            share = ((other - eps).norm() / (cond - eps).norm()).item()
            assert share < 0.1


@pytest.mark.slow
def test_the_whole_command_makes_a_row_with_its_seconds(tmp_path, monkeypatch):
    (tmp_path / "script.py").write_text(STAND_IN)
    monkeypatch.setattr(Script, "check", lambda self: None)
    out, runs = tmp_path / "row.json", tmp_path / "runs"
    words = [str(tmp_path / "script.py"), "--python", sys.executable, "-o", str(out)]
    words += ["--num-pairs", "4", "--steps", "2", "--num-prompts", "100", "--runs", str(runs)]
    monkeypatch.setattr(sys, "argv", ["public_script.py", *words])
    public_script.main()
    (row,) = load(out).rows
    assert (row.method, row.steps, row.calls) == ("Public LCM script", 4, 4)
    assert row.metrics[CORE_SECONDS].value > 0
    assert row.metrics["prompt_accuracy"].n == 100
    assert str(tmp_path) not in json.loads(out.read_text())["command"].split(" -o ")[0]


def test_an_adapter_that_changes_nothing_is_the_teacher_under_the_lcm_scheduler(tmp_path):
    shutil.copytree(bundled_folder(), tmp_path / "teacher")
    from peft import LoraConfig, get_peft_model

    unet = StableDiffusionPipeline.from_pretrained(tmp_path / "teacher").unet
    get_peft_model(unet, LoraConfig(r=2, target_modules=["to_q"])).save_pretrained(tmp_path / "a")
    pipeline = pipeline_of(tmp_path / "teacher", tmp_path / "a")
    plain = StableDiffusionPipeline.from_pretrained(bundled_folder(), local_files_only=True)
    plain.scheduler, prompts = pipeline.scheduler, ["a red heart", "two stars"]
    plain.set_progress_bar_config(disable=True)
    sample(pipeline, prompts, tmp_path / "images")
    sample(plain, prompts, tmp_path / "plain")
    one, other = (
        [np.asarray(Image.open(path), int) for path in sorted((tmp_path / name).glob("*.png"))]
        for name in ("images", "plain")
    )
    assert len(one) == 2
    assert np.abs(np.stack(one) - np.stack(other)).max() <= 2

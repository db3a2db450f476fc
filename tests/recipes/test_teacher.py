"""The bundled teacher's training: resumable, extensible, and readable by stock diffusers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file

from fewstep.errors import SettingError, UserError
from fewstep.models.loading import bundled_folder
from recipes.bundled_teacher import optimising
from recipes.bundled_teacher.config import TeacherConfig, load_teacher_config
from recipes.bundled_teacher.optimising import plateau_path
from recipes.bundled_teacher.teacher import export, train_teacher


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("finished")
    train_teacher(tiny_config(), run)
    return run


def tiny_config(*overrides: str) -> TeacherConfig:
    return load_teacher_config(Path(__file__).with_name("tiny-teacher.toml"), overrides)


def weights(run: Path, name: str) -> dict[str, torch.Tensor]:
    state = torch.load(run / "checkpoints" / f"{name}.pt", weights_only=True)
    return state["average"] | {f"raw.{key}": value for key, value in state["network"].items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def copied(run: Path, to: Path) -> Path:
    """Copy all that comes before the denoiser."""
    for name in ("tokenizer", "autoencoder", "text_encoder", "pool"):
        shutil.copytree(run / name, to / name)
    return to


@pytest.mark.parametrize("stage", ["autoencoder", "text", "denoiser", "features"])
def test_a_killed_and_resumed_stage_equals_an_uninterrupted_one(
    finished, tmp_path, monkeypatch, stage
):
    whole_update, killed = optimising.update, []

    def update_until_killed(state, loss_at, plan, step):
        names = {name.split(".")[0] for name, _ in state.network.named_parameters()}
        here = {
            "encoder": "autoencoder",
            "thing": "text",
            "conv_in": "denoiser",
            "body": "features",
        }
        if step == 1 and not killed and stage in {here.get(name) for name in names}:
            killed.append(stage)
            torch.manual_seed(99)  # the global random state must not matter
            raise KeyboardInterrupt
        return whole_update(state, loss_at, plan, step)

    monkeypatch.setattr(optimising, "update", update_until_killed)
    with pytest.raises(KeyboardInterrupt):
        train_teacher(tiny_config(), tmp_path)
    train_teacher(tiny_config(), tmp_path)
    for name in ("autoencoder", "text", "denoiser", "features"):
        assert same(weights(tmp_path, name), weights(finished, name))


def test_a_raised_number_of_steps_extends_the_plateau(finished, tmp_path):
    run = copied(finished, tmp_path)
    train_teacher(tiny_config("denoiser.steps=3"), run)
    assert plateau_path(run, "denoiser").exists()
    train_teacher(tiny_config("denoiser.steps=4"), run)
    assert same(weights(run, "denoiser"), weights(finished, "denoiser"))


def test_a_folder_of_other_settings_is_refused_and_nothing_of_it_changed(finished, tmp_path):
    run = copied(finished, tmp_path)
    shutil.copy(finished / "settings.json", run)
    for changed in ("text.layers=7", "pool.captions=9", "seed=1"):
        key, value = changed.split("=")
        with pytest.raises(SettingError, match=rf"{key} = \d+ there, {value} here.*another --run"):
            train_teacher(tiny_config(changed), run)
    assert not (run / "checkpoints").exists()
    train_teacher(tiny_config("denoiser.learning_rate=1e-4", "text.save_every=9"), run)


def test_a_damaged_checkpoint_is_named_with_the_fix(finished, tmp_path):
    run = copied(finished, tmp_path)
    (run / "checkpoints").mkdir()
    whole = (finished / "checkpoints" / "denoiser.pt").read_bytes()
    (run / "checkpoints" / "denoiser.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"denoiser\.pt is damaged .* delete it to train this part"):
        train_teacher(tiny_config(), run)


def test_a_plans_setting_is_named_with_its_table():
    with pytest.raises(SettingError, match=r"text\.steps is 0; it has to be 1 or more"):
        load_teacher_config(overrides=["text.steps=0"])


def test_stock_diffusers_loads_the_exported_folder_and_generates(finished):
    pipeline = StableDiffusionPipeline.from_pretrained(finished / "teacher")
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        "a red star", num_inference_steps=2, guidance_scale=3.0, output_type="np"
    ).images
    assert image.shape == (1, 64, 64, 3)
    assert np.isfinite(image).all()
    assert pipeline.unet.dtype == torch.float32
    assert pipeline.scheduler.config.prediction_type == "epsilon"
    shipped = DDIMScheduler.load_config(bundled_folder() / "scheduler")
    assert DDIMScheduler.load_config(finished / "teacher" / "scheduler") == shipped


def test_a_snapshot_can_be_exported_beside(finished, tmp_path):
    folder = export(tiny_config(), finished, tmp_path / "snapshot")
    there = (finished / "teacher/unet/diffusion_pytorch_model.safetensors").read_bytes()
    assert (folder / "unet/diffusion_pytorch_model.safetensors").read_bytes() == there


def test_the_shipped_settings_can_be_read_and_overridden():
    config = load_teacher_config(overrides=["pool.workers=1"])
    assert config.pool.workers == 1
    with pytest.raises(SettingError, match="did you mean pool"):
        load_teacher_config(overrides=["pol.workers=1"])


def test_a_teacher_can_be_trained_on(finished, tmp_path):
    start = finished / "teacher"
    config = tiny_config(f'start="{start}"', "denoiser.steps=1", "denoiser.learning_rate=1e-9")
    folder = train_teacher(config, tmp_path)
    for part in ("vae", "unet", "text_encoder"):
        (ours,), (theirs,) = ([*(f / part).glob("*.safetensors")] for f in (folder, start))
        before, after = load_file(theirs), load_file(ours)
        assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    assert not (tmp_path / "checkpoints" / "features.pt").exists(), "its images are the same"
    with pytest.raises(
        SettingError, match="start is 'nowhere'; it has to be the folder of a teach"
    ):
        train_teacher(tiny_config("start=nowhere"), tmp_path / "other")
    deeper = tiny_config(f'start="{start}"', "denoiser.num_layers=2")
    with pytest.raises(SettingError, match=r"denoiser.num_layers is 2; it has to be 1, as `start`"):
        train_teacher(deeper, tmp_path / "deeper")
    assert not (tmp_path / "deeper").exists(), "nothing is written before"


def test_a_teacher_is_widened_to_be_trained_on(finished, tmp_path):
    start = f'start="{finished / "teacher"}"'
    narrower = tiny_config(start, "denoiser.channels=[8, 32]")
    with pytest.raises(SettingError, match=r"\[8, 32\]; it has to be at least \[16, 32\]"):
        train_teacher(narrower, tmp_path / "narrower")
    folder = train_teacher(tiny_config(start, "denoiser.channels=[32, 40]"), tmp_path / "wider")
    shape = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
    assert shape["block_out_channels"] == [32, 40]

"""Numbers that are not finite end a run at their step, with its captions and a way on."""

import re
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fewstep.config import DataSettings
from fewstep.console import finish
from fewstep.methods import Batch
from fewstep.training.distill import TrainingStep, distill_run, train_run
from fewstep.training.divergence import TrainingDivergedError
from fewstep.training.prepare import prepare_data
from fewstep.training.setup import build
from tests.data.samples import folder_of
from tests.tiny import tiny_config
from tests.training.test_trainer import SETTINGS, Toy

BROKEN = [float("nan"), float("inf")]


def diverged(call) -> str:
    with pytest.raises(TrainingDivergedError) as told:
        call()
    return str(told.value)


def config_for(folder, **data):
    config = tiny_config()
    return replace(config, data=DataSettings(path=str(folder), resolution=64, **data))


@pytest.fixture
def folder(tmp_path):
    """Six images with captions of their own."""
    folder = folder_of(tmp_path / "images", 6)
    for i in range(6):
        (folder / f"{i:03d}.txt").write_text(f"caption {i}")
    return folder


def captions_in(message: str) -> set[int]:
    return {int(number) for number in re.findall(r"'caption (\d)'", message)}


@pytest.mark.parametrize("number", BROKEN)
def test_broken_latents_in_a_cache_are_told_by_their_caption(folder, tmp_path, number):
    config, run = config_for(folder), tmp_path / "run"
    cache = finish(prepare_data(config, run)).folder
    path = cache / "latents-000000.safetensors"
    with safe_open(path, "pt") as file:
        about = file.metadata()
    latents = load_file(path)
    latents["mean.4x8x8"][3] = number
    save_file(latents, path, about)
    message = diverged(lambda: distill_run(config, run))
    step = int(re.search(r"diverged at step (\d):", message)[1])
    assert step <= 3, "6 pairs, 2 a step: found in the first epoch, at its own step"
    assert captions_in(message) == {3}
    assert f"latents of these samples are not finite: delete {cache} to encode" in message


def test_broken_latents_of_a_stream_are_told_by_their_captions(folder, tmp_path):
    components = build(config_for(folder, streaming=True), tmp_path / "run", "cpu")
    shape = components.family.latent_shape(64)
    broken = torch.full((1, *shape), float("nan"))
    object.__setattr__(components.family, "encode_images", lambda images: (broken, broken))
    message = diverged(lambda: finish(train_run(components)))
    assert len(captions_in(message)) == 2
    assert "diverged at step 1: the loss is nan" in message
    assert "latents of these samples are not finite: check these images" in message


@pytest.mark.parametrize("number", BROKEN)
def test_a_broken_teacher_is_told_by_its_weight(folder, tmp_path, number):
    components = build(config_for(folder), tmp_path / "run", "cpu")
    components.family.network.conv_in.bias.data[0] = number
    message = diverged(lambda: finish(train_run(components)))
    assert "diverged at step 1: the loss is" in message
    assert len(captions_in(message)) == 2
    assert "are not finite in fp32, first conv_in.bias: get the model again" in message


@pytest.mark.parametrize("number", BROKEN)
def test_a_broken_gradient_is_told_with_the_captions_of_the_highest_losses(
    folder, tmp_path, number
):
    components = build(config_for(folder), tmp_path / "run", "cpu")
    name, weight = next(iter(components.state.trained.items()))
    weight.register_hook(lambda gradient: gradient * number)
    message = diverged(lambda: finish(train_run(components)))
    assert f"diverged at step 1: the gradient of 1 of {len(components.state.trained)}" in message
    assert f"first {name}" in message
    assert len(captions_in(message)) == 2
    assert "lower train.learning_rate" in message


def test_weights_that_are_not_finite_are_not_saved(folder, tmp_path):
    run = tmp_path / "run"
    components = build(config_for(folder), run, "cpu")

    def broken_after(step):
        for event in train_run(components):
            if isinstance(event, TrainingStep) and event.done == step:
                next(iter(components.state.trained.values())).data.fill_(float("inf"))

    message = diverged(lambda: broken_after(4))  # which is saved, as every second step
    assert "diverged at step 4: the weight" in message
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["00000002"]


def test_the_samples_of_an_error_are_those_of_the_broken_losses(schedule):
    toy = Toy(schedule)
    batch_at = toy.batch_at

    def broken(samples):
        batch = batch_at(samples)
        for row, sample in enumerate(samples):
            if sample in (13, 22):
                batch.x_0[row] = float("nan")
        return Batch(batch.x_0, batch.cond)

    toy.batch_at = broken
    settings = replace(SETTINGS, batch_size=4, accumulate=2)
    with pytest.raises(TrainingDivergedError) as told:
        list(toy.steps(settings))
    assert (told.value.step, told.value.samples) == (1, (13,))

"""`fewstep distill-decoder` trains on the run's latents, and measures on those it did not see."""

import json
import re
import shlex
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from fewstep.config import DataSettings, DecoderSettings, to_toml
from fewstep.console import finish
from fewstep.data.cache import LatentCache, open_cache
from fewstep.errors import UserError
from fewstep.models.loading import load_model
from fewstep.models.tiny_decoder import CONTRACT, new_decoder, with_decoder, with_vae
from fewstep.training import decoder as training
from fewstep.training.decoder import batches, distill_decoder, train
from fewstep.training.distill import distill_run
from fewstep.training.prepare import prepare_data
from tests.data.samples import noise
from tests.tiny import tiny_config, tiny_pipeline

SMALL = DecoderSettings(steps=40, batch_size=4)


def config_of(settings=SMALL, **data):
    """Return settings for 12 scenes of the bundled world, encoded by the tiny pipeline."""
    config = replace(tiny_config(), decoder=settings)
    return replace(config, data=replace(config.data, **data))


def seen_and_held_out(monkeypatch, run, config):
    """Train, and return the result, the latents of training and those of the measurement."""
    seen, measured = [], []

    def batches_seen(*arguments):
        for x_0 in batches(*arguments):
            seen.extend(x_0)
            yield x_0

    def psnr(decoder, family, x_0):
        measured.extend(x_0)
        return known(decoder, family, x_0)

    known = training._psnr
    monkeypatch.setattr(training, "batches", batches_seen)
    monkeypatch.setattr(training, "_psnr", psnr)
    return finish(distill_decoder(config, run)), seen, measured


def test_it_learns_the_vaes_images_and_says_how_near_it_is(tmp_path, monkeypatch):
    untrained = finish(distill_decoder(config_of(replace(SMALL, steps=1)), tmp_path / "one"))
    made, seen, measured = seen_and_held_out(monkeypatch, tmp_path / "run", config_of())
    assert made.psnr > untrained.psnr + 2
    assert (made.channels, made.held_out, len(seen), len(measured)) == (16, 6, 160, 6)

    vae = AutoencoderKL.from_pretrained(tiny_pipeline(), subfolder="vae")
    tiny = AutoencoderTiny.from_pretrained(made.folder)
    with torch.no_grad():
        x_0 = torch.stack(measured)
        theirs = (vae.decode(x_0 / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
        error = (tiny.decode(x_0).sample / 2 + 0.5).clamp(0, 1) - theirs
    expected = -10 * error.square().mean((1, 2, 3)).log10()
    assert made.psnr == pytest.approx(expected.mean().item(), abs=1e-2)
    contract = json.loads((made.folder / CONTRACT).read_text())
    assert contract["train"] | {"psnr": made.psnr} == {
        "channels": 16, "steps": 40, "batch_size": 4, "learning_rate": 5e-3, "seed": 0,
        "latents": contract["train"]["latents"], "pairs": 12, "resolution": 64, "held_out": 6,
        "psnr": made.psnr,
    }  # fmt: skip
    assert str(tmp_path) not in (made.folder / CONTRACT).read_text()


def test_the_pairs_that_measure_it_are_not_trained_on(tmp_path, monkeypatch):
    made = finish(prepare_data(config_of(num_pairs=24), tmp_path / "run"))
    cache, read = open_cache(made.folder, seed=0), []
    known = LatentCache.read
    monkeypatch.setattr(
        LatentCache, "read", lambda self, samples: read.extend(samples) or known(self, samples)
    )
    held_out = [cache.order.pair(sample) for sample in range(5)]
    for x_0 in islice(batches(cache, held_out, 3), 20):
        assert x_0.shape == (3, 4, 8, 8)
    assert {cache.order.pair(sample) for sample in read} == set(range(24)) - set(held_out)


def test_a_batch_has_latents_of_one_size(tmp_path):
    for number, size in enumerate([(64, 64), (128, 64), (64, 128)] * 3):
        noise(number, size).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("a star")
    data = DataSettings(path=str(tmp_path), resolution=64, buckets=True)
    config = replace(config_of(), data=data)
    made = finish(
        distill_decoder(replace(config, decoder=replace(SMALL, batch_size=2)), tmp_path / "run")
    )
    assert made.held_out == 4


def test_it_is_a_function_of_its_settings(tmp_path):
    config = config_of(replace(SMALL, steps=3))
    digests = [
        json.loads((finish(distill_decoder(config, tmp_path / run)).folder / CONTRACT).read_text())
        for run in ("one", "two")
    ]
    assert digests[0]["sha256"] == digests[1]["sha256"]


def test_a_method_of_captions_alone_gets_latents_too(tmp_path):
    config = replace(config_of(), method={"name": "trajectory-matching"})
    made = finish(distill_decoder(config, tmp_path / "run"))
    family = load_model(tiny_pipeline())
    images = with_decoder(family, made.folder).decode(torch.randn(1, 4, 8, 8))
    assert images.shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_pairs": 1}, "has one pair alone"),
        ({"streaming": True}, "leave it out to have a cache"),
    ],
)
def test_data_that_it_cannot_learn_from_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        finish(distill_decoder(config_of(**changes), tmp_path / "run"))


def test_a_loss_that_is_not_finite_is_an_error_with_its_setting():
    family = with_vae(load_model(tiny_pipeline()))
    latents = iter([torch.full((1, 4, 8, 8), torch.inf)])
    with pytest.raises(UserError, match=r"not finite at decoder.learning_rate = 0.005: lower it"):
        next(train(new_decoder(family, 16), family, latents, SMALL))


def test_from_a_run_to_an_image_by_the_commands_that_are_printed(typed):
    Path("mine.toml").write_text(to_toml(tiny_config(steps=1)))
    code, output = typed("distill", "mine.toml", "--run", "my run")
    assert code == 0, output
    code, output = typed("sample", "my run", "a star", "--decoder", "tiny")
    assert (code, "my run has no tiny_decoder; next: " in output) == (2, True), output
    settings = ("--set", "decoder.steps=2", "--set", "decoder.batch_size=2")
    code, output = typed(*next_of(output), *settings)
    assert (code, "PSNR" in output) == (0, True), output
    code, output = typed(*next_of(output))
    assert (code, Path("out.png").exists()) == (0, True), output
    code, output = typed("distill-decoder", "mine.toml", "--run", "other", *settings)
    assert code == 0, output
    code, output = typed(*next_of(output))  # of the teacher, as there is no student
    assert code == 0, output
    code, output = typed("distill-decoder", "mine.toml", "--run", "my run", *settings, "--json")
    assert json.loads(output[output.index("{") : output.rindex("}") + 1])["held_out"] == 6
    code, output = typed("sample", "my run", "a star", "--decoder", "nowhere")
    assert (code, "there is no decoder nowhere: name a folder" in output) == (2, True), output
    code, output = typed("sample", tiny_pipeline(), "a star", "--decoder", "tiny")
    assert (code, "a plain model has no decoder of its own" in output) == (2, True), output


def test_settings_of_the_decoder_do_not_make_it_another_run(tmp_path):
    config = tiny_config(steps=1)
    assert distill_run(config, tmp_path / "run") == 1
    assert distill_run(replace(config, decoder=SMALL), tmp_path / "run") == 1


def next_of(output):
    """Return the arguments of the one command that is to be typed next."""
    (line,) = re.findall(r"next: fewstep (.*)", output)
    return shlex.split(line)

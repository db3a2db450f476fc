"""Real data all the way: looked at, encoded, trained on, from a cache or on the fly."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from fewstep.cli import app
from fewstep.config import AdapterSettings, DataSettings, load_config, to_toml
from fewstep.console import finish
from fewstep.data.check import check_data
from fewstep.diffusion.random import Draw, generator
from fewstep.errors import Interrupted, SettingError, UserError
from fewstep.models.loading import load_model
from fewstep.student.generate import teacher_sampler
from fewstep.training.distill import distill_run
from fewstep.training.prepare import prepare_data
from tests.data.samples import SIZE, bomb, coco, content, folder_of, noise, shards
from tests.tiny import tiny_config, tiny_pipeline
from tests.together import run_together
from tests.training.test_distill import same, stop_after, weights

T4 = "configs/sd15-t4.toml"


def config_for(path, train=(), **data):
    config = tiny_config(**dict(train))
    return replace(config, data=DataSettings(path=str(path), resolution=64, **data))


def t4_config(path, **data):
    """Return the T4 recipe's own settings, made small, on the tiny pipeline."""
    recipe = load_config(T4)
    return replace(
        recipe,
        model=replace(recipe.model, base=str(tiny_pipeline()), precision="fp32"),
        adapter=AdapterSettings(recipe.adapter.preset, rank=2),
        data=replace(recipe.data, path=str(path), resolution=64, **data),
        train=replace(recipe.train, steps=2, batch_size=2, accumulate=2, preview_every=0),
    )


def test_a_coco_set_is_checked_prepared_and_distilled_by_the_t4_recipe(tmp_path, monkeypatch):
    path = coco(tmp_path / "coco", 12, broken=(4,))
    found = finish(check_data(DataSettings(path=str(path))))
    assert (found.pairs, len(found.sizes), len(found.captions)) == (12, 11, 24)
    (broken,) = found.broken
    assert "000000000004.jpg: image file is truncated" in broken

    config = t4_config(tmp_path / "coco", max_skipped=0.1)
    prepared = finish(prepare_data(config, tmp_path / "run"))
    assert (prepared.pairs, prepared.skipped, prepared.notes) == (11, 1, ())
    assert "11 pairs in" in prepared.summary()
    assert (prepared.folder / "skipped.txt").read_text().count("000000000004.jpg") == 1
    before = {path: path.stat().st_mtime_ns for path in prepared.folder.iterdir()}
    assert distill_run(config, tmp_path / "run") == 2
    assert before == {path: path.stat().st_mtime_ns for path in prepared.folder.iterdir()}
    assert any(value.any() for value in weights(tmp_path / "run").values())


def test_data_check_says_what_a_folder_holds(tmp_path):
    folder = folder_of(tmp_path, 4)
    (folder / "000.png").write_bytes(bomb())
    noise(1, (20, 90)).save(folder / "001.png")
    (folder / "002.png").write_bytes(content(noise(2).convert("CMYK"), "JPEG"))
    told = CliRunner().invoke(app, ["data", "check", str(folder), "--resolution", "64"])
    assert told.exit_code == 2, "there is a broken file"
    for words in ("4 images, 4 captions", "2 PNG, 1 JPEG", "width       20 to 96, median", "1 CMYK",
                  "1 broken:", "000.png: ", "1 too small:", "001.png: 20 x 90"):  # fmt: skip
        assert words in told.stdout
    for name in ("000", "001"):
        (folder / f"{name}.png").unlink()
    assert CliRunner().invoke(app, ["data", "check", str(folder)]).exit_code == 0


def checked(*told: object):
    return CliRunner().invoke(app, ["data", "check", *map(str, told)])


def test_programs_read_what_data_check_found_as_json(tmp_path):
    folder = folder_of(tmp_path / "images", 3)
    (folder / "empty.png").write_bytes(b"")
    (folder / "empty.txt").write_text("nothing")
    told = checked(folder, "--json")
    found = json.loads(told.stdout)
    assert (told.exit_code, found["is_usable"], len(found["broken"])) == (2, False, 1)
    assert len(found["sizes"]) == found["pairs"] - 1


def test_data_check_lists_every_bad_file_and_every_bad_caption(tmp_path):
    folder = folder_of(tmp_path, 25)
    for path in folder.glob("*.png"):
        path.write_bytes(b"")
    assert checked(folder).stdout.count("the file is empty") == 25
    for i in (3, 4):
        (folder / f"{i:03d}.txt").write_text("")
    told = checked(folder)
    assert told.exit_code == 2
    assert "2 without a caption or an image that can be used:" in told.stdout
    assert "003.png has the caption ''" in told.stdout
    assert "004.png has the caption ''" in told.stdout


def test_data_check_looks_at_what_has_no_images(tmp_path):
    (tmp_path / "p.txt").write_text("a cat\n")
    for path, words in (("bundled", "7 images, 7 captions"), (tmp_path / "p.txt", "7 captions")):
        told = checked(path, "--num-pairs", 7)
        assert told.exit_code == 0
        assert words in told.stdout


@pytest.mark.parametrize("kind", ["TIFF", "GIF"])
def test_data_check_survives_damaged_frames(tmp_path, kind):
    folder, frames = folder_of(tmp_path, 1), [noise(i) for i in range(3)]
    whole = content(frames[0], kind, save_all=True, append_images=frames[1:])
    for end in range(len(whole) // 3, len(whole), len(whole) // 40):
        (folder / "000.png").write_bytes(whole[:end])
        found = finish(check_data(DataSettings(path=str(folder))))
        assert len(found.sizes) + len(found.broken) == 1
    (folder / "000.png").write_bytes(whole)
    assert (
        "animated (the first frame is used)"
        in finish(check_data(DataSettings(path=str(folder)))).kinds
    )


def test_data_check_reads_the_columns_that_are_named(tmp_path):
    import datasets

    rows = {"image": [{"bytes": content(noise(0)), "path": None}], "words": ["a cat"]}
    kinds = datasets.Features({"image": datasets.Image(), "words": datasets.Value("string")})
    datasets.DatasetDict({"val": datasets.Dataset.from_dict(rows, features=kinds)}).save_to_disk(
        tmp_path / "d"
    )
    told = checked(tmp_path / "d", "--split", "val", "--caption-column", "words")
    assert "1 image, 1 caption" in told.stdout


def config_of_shards(root, streaming, workers):
    data = {"flip": True, "caption_dropout": 0.3, "shuffle_buffer": 3}
    folder = shards(root / "s", (4, 5))
    return config_for(folder, {"steps": 4}, streaming=streaming, workers=workers, **data)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_stopped_run_on_images_continues_to_the_same_weights(tmp_path, streaming, workers):
    config = config_of_shards(tmp_path, streaming, workers)
    distill_run(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        stop_after(1, signal.SIGTERM, config, tmp_path / "stopped")
    distill_run(config, tmp_path / "stopped")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_killed_run_on_images_continues_to_the_same_weights(tmp_path, streaming, workers):
    config = config_of_shards(tmp_path, streaming, workers)
    distill_run(config, tmp_path / "whole")
    assert run_together(1, killed, config, tmp_path / "killed") == [-signal.SIGKILL]
    assert [path.name for path in (tmp_path / "killed" / "checkpoints").iterdir()] == ["00000002"]
    distill_run(config, tmp_path / "killed")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


def killed(rank: int, config, run) -> None:
    stop_after(3, signal.SIGKILL, config, run)


def test_what_a_stream_leaves_out_is_listed_and_limited(tmp_path):
    path = coco(tmp_path / "coco", 6, broken=(2,))
    config = config_for(path, {"steps": 6}, streaming=True, max_skipped=0.2)
    assert distill_run(config, tmp_path / "run") == 6
    (listed,) = (tmp_path / "run" / "skipped.txt").read_text().splitlines()
    assert "000000000002.jpg: image file is truncated" in listed
    few = replace(config, data=replace(config.data, max_skipped=0.1))
    with pytest.raises(UserError, match=r"1 images cannot be used, .*max_skipped allows 0"):
        distill_run(few, tmp_path / "few")


def test_what_belongs_to_no_pair_is_said(tmp_path):
    folder = folder_of(tmp_path / "p", 3)
    (folder / "lost.txt").write_text("its image is gone")
    told = checked(folder)
    assert told.exit_code == 0
    assert "1 file beside the pairs:\n  lost.txt" in told.stdout
    (note,) = finish(prepare_data(config_for(folder), tmp_path / "run")).notes
    assert "1 file beside the pairs, such as lost.txt" in note


def test_a_name_that_is_not_utf8_can_be_listed(tmp_path):
    folder = folder_of(tmp_path / "p", 3)
    name = folder / os.fsdecode(b"caf\xe9.png")
    name.write_bytes(b"broken")
    name.with_suffix(".txt").write_text("a cat")
    prepared = finish(prepare_data(config_for(folder, max_skipped=0.3), tmp_path / "run"))
    assert "caf\\udce9.png: it is not an image" in (prepared.folder / "skipped.txt").read_text()


def test_streaming_trains_to_the_weights_that_the_cache_gives(tmp_path):
    folder = folder_of(tmp_path / "p", 6)
    cached, streamed = (config_for(folder, {"steps": 3}, streaming=s) for s in (False, True))
    distill_run(cached, tmp_path / "cached")
    distill_run(streamed, tmp_path / "streamed")
    mine, theirs = weights(tmp_path / "cached"), weights(tmp_path / "streamed")
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], rtol=1e-3, atol=1e-5)


def test_prompts_alone_train_a_student(tmp_path):
    (tmp_path / "prompts.txt").write_text("a red heart\ntwo stars\n")
    config = config_for(tmp_path / "prompts.txt", {"steps": 2}, num_pairs=4, teacher_steps=2)
    assert distill_run(config, tmp_path / "run") == 2
    (cached,) = (tmp_path / "cache").rglob("latents-*.safetensors")
    (means,) = (value for name, value in load_file(cached).items() if name.startswith("mean."))
    teacher = teacher_sampler(load_model(tiny_pipeline()), 2, 4.0)
    own_seed = generator(0, "prompts").initial_seed()
    its_noise = Draw.keyed(own_seed, range(2), purpose="paint").generators
    theirs = teacher.latents(["a red heart", "two stars"], its_noise, 64)
    torch.testing.assert_close(means[:2].reshape(theirs.shape), theirs, rtol=1e-4, atol=1e-4)
    with pytest.raises(SettingError, match=r"data.streaming is true, .* holds prompts without"):
        distill_run(replace(config, data=replace(config.data, streaming=True)), tmp_path / "no")


def test_buckets_train_on_images_of_several_sizes(tmp_path):
    folder = folder_of(tmp_path / "p", 3, size=(64, 64))
    for i in range(3, 6):
        noise(i, (128, 64)).save(folder / f"{i:03d}.png")
        (folder / f"{i:03d}.txt").write_text("a star")
    assert distill_run(config_for(folder, {"steps": 3}, buckets=True), tmp_path / "run") == 3


@pytest.mark.parametrize(
    ("data", "train", "message"),
    [
        ({"resolution": 60}, {}, "data.resolution is 60; this model needs a multiple of 16"),
        ({}, {"batch_size": 7}, r"a step takes 7 samples .* has 6 pairs: lower these"),
        ({}, {"batch_size": 3, "accumulate": 3}, "a step takes 9 samples"),
        ({"num_pairs": 1}, {}, "a step takes 2 samples .* has 1 pairs"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(tmp_path, data, train, message):
    folder = folder_of(tmp_path / "p", 6)
    config = config_for(folder, train)
    config = replace(config, data=replace(config.data, **data))
    with pytest.raises(UserError, match=message):
        distill_run(config, tmp_path / "runs" / "a")
    assert not (tmp_path / "runs").exists()


def test_a_run_does_not_go_on_with_other_data(tmp_path):
    folder, run = folder_of(tmp_path / "p", 4), tmp_path / "run"
    distill_run(config_for(folder, {"steps": 1}), run)
    assert distill_run(config_for(folder, {"steps": 1}), run) == 1
    (folder / "001.txt").write_text("another caption")
    with pytest.raises(SettingError, match=r"has learnt from other data: .*delete .*data.sha256"):
        distill_run(config_for(folder, {"steps": 1}), run)
    (run / "data.sha256").unlink()
    assert distill_run(config_for(folder, {"steps": 1}), run) == 1


def test_with_dropout_a_run_goes_on_with_the_same_division_alone(tmp_path):
    folder = folder_of(tmp_path / "p", 4)
    for dropout in (0.0, 0.3):
        config = config_for(folder, {"steps": 1, "batch_size": 2})
        config = replace(config, adapter=replace(config.adapter, dropout=dropout))
        run, halves = tmp_path / f"run{dropout}", {"batch_size": 1, "accumulate": 2}
        distill_run(config, run)
        other = replace(config, train=replace(config.train, **halves))
        if dropout:
            with pytest.raises(SettingError, match=r"train.accumulate = 1 there, 2 here"):
                distill_run(other, run)
        else:
            assert distill_run(other, run) == 1


def test_streaming_has_nothing_to_prepare(tmp_path):
    with pytest.raises(UserError, match="there is nothing to prepare"):
        finish(prepare_data(config_for(tmp_path, streaming=True), tmp_path / "run"))


@pytest.mark.slow
def test_a_signal_to_the_whole_group_saves_the_run(tmp_path):
    folder = folder_of(tmp_path / "p", 6)
    config = tmp_path / "config.toml"
    config.write_text(to_toml(config_for(folder, {"steps": 500}, workers=2)))
    run = tmp_path / "run"
    command = [sys.executable, "-m", "fewstep", "distill", str(config), "--run", str(run)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as process:
        log = run / "metrics.jsonl"
        while process.poll() is None and not (log.exists() and log.read_text()):
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)
        told = process.communicate()[1].decode()
    assert process.returncode == 128 + signal.SIGTERM, told
    assert list((run / "checkpoints").iterdir())


@pytest.mark.slow
def test_a_killed_prepare_continues_to_the_same_cache(tmp_path):
    folder = folder_of(tmp_path / "p", 40, size=SIZE)
    config = tmp_path / "config.toml"
    config.write_text(to_toml(config_for(folder, cache=str(tmp_path / "killed"))))
    command = [sys.executable, "-m", "fewstep", "prepare", str(config)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(tmp_path.glob("killed/*/latents-*")):
        pass
    process.kill()
    process.wait()
    subprocess.run(command, check=True, capture_output=True)
    whole = finish(
        prepare_data(load_config(config, [f"data.cache={tmp_path / 'whole'}"]), tmp_path / "r")
    )
    for path in whole.folder.glob("*.safetensors"):
        one, other = load_file(path), load_file(tmp_path / "killed" / whole.folder.name / path.name)
        assert same(one, other)


def test_data_check_counts_tokens_and_lists_captions_that_are_too_long(tmp_path):
    folder = folder_of(tmp_path / "images", 8)
    for number, words in enumerate((75, 76, 90, 80, 81, 82, 300)):
        (folder / f"{number:03d}.txt").write_text("cat " * words + ("dog" if words == 90 else ""))
    told = checked(folder)
    assert told.exit_code == 0, "a caption that is cut can be trained on"
    assert (
        "tokens      2 to 300, median 80.5, by the tokenizer of Stable Diffusion 1" in told.stdout
    )
    assert "--model MODEL counts by another's" in told.stdout
    assert "6 captions longer than the 75 tokens that are read at once: cut there" in told.stdout
    listed = re.findall(r"(\d+)\.png: (\d+) tokens, beyond: ", told.stdout)
    assert listed == [("006", "300"), ("002", "91"), ("005", "82"), ("004", "81"), ("003", "80")]
    assert "002.png: 91 tokens, beyond: 'cat cat cat cat" in told.stdout
    assert "cat dog'" in told.stdout


def test_data_check_counts_by_the_tokenizer_of_a_model_that_is_named(tmp_path):
    (tmp_path / "p.txt").write_text("a red heart\n" + "a red heart " * 8)
    told = checked(tmp_path / "p.txt", "--model", tiny_pipeline())
    assert f"tokens      3 to 24, median 13.5, by the tokenizer of {tiny_pipeline()}" in told.stdout
    assert "1 caption longer than the 22 tokens" in told.stdout
    assert "prompt 2: 24 tokens, beyond: 'red heart'" in told.stdout
    (found,) = json.loads(checked(tmp_path / "p.txt", "--model", tiny_pipeline(), "--json").stdout)[
        "too_long"
    ]
    assert found == {"name": "prompt 2", "tokens": 24, "limit": 22, "beyond": "red heart"}
    refused = checked(tmp_path / "p.txt", "--model", tmp_path)
    assert "neither a diffusers folder" in str(refused.exception)


@pytest.mark.slow
def test_two_prepares_at_once_make_the_cache_of_one(tmp_path):
    config, cache = tmp_path / "config.toml", tmp_path / "cache"
    folder = folder_of(tmp_path / "p", 40, size=SIZE)
    config.write_text(to_toml(config_for(folder, cache=str(cache))))
    command = [sys.executable, "-m", "fewstep", "prepare", str(config)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    alone = load_config(config, [f"data.cache={tmp_path / 'alone'}"])
    whole = finish(prepare_data(alone, tmp_path / "r")).folder
    names = sorted(path.name for path in whole.iterdir())
    assert sorted(path.name for path in (cache / whole.name).iterdir()) == names, "and no others"
    for path in whole.glob("*.safetensors"):
        assert same(load_file(path), load_file(cache / whole.name / path.name))

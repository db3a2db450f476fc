"""The cache gives what encoding on the fly would give, whatever happened while it was made."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Thread

import pytest
import torch
from safetensors.torch import load_file

from fewstep.config import DataSettings
from fewstep.data import cache as cache_module
from fewstep.data import dataset as dataset_module
from fewstep.data import encode
from fewstep.data.cache import open_cache, tensor_file
from fewstep.data.dataset import Dataset
from fewstep.data.fingerprint import Fingerprint, claim_cache
from fewstep.data.loader import batches_at, read_ahead
from fewstep.diffusion.schedule import NoiseSchedule
from fewstep.distributed import ALONE, Processes
from fewstep.errors import DataError
from fewstep.models.loading import load_model
from tests.data.samples import coco, folder_of, noise
from tests.tiny import tiny_pipeline

COUNT = 7


@pytest.fixture(scope="module")
def family():
    return load_model(tiny_pipeline())


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    for module in (cache_module, encode):
        monkeypatch.setattr(module, "SHARD", 3)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("images"), COUNT)


@pytest.fixture
def dataset(images, family, tmp_path):
    def make(**settings) -> Dataset:
        data = DataSettings(**{"path": str(images), "resolution": 64} | settings)
        return Dataset(data, family, 64, tmp_path / "cache", 4.0)

    return make


def filled(dataset: Dataset) -> Path:
    dataset.claim()
    fill(dataset)
    return dataset.cache_folder


def fill(dataset: Dataset, processes: Processes = ALONE) -> list[int]:
    return [step.done for step in dataset.fill(processes)]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.name}/{name}": value.clone()  # a loaded file is mapped, and may change below
        for path in sorted(folder.glob("*.safetensors"))
        for name, value in load_file(path).items()
    }


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize(
    "settings",
    [{}, {"flip": True, "crop": "random"}, {"caption_dropout": 0.5}, {"captions": "all"}],
)
def test_latents_from_the_cache_equal_those_on_the_fly_to_the_bit(dataset, settings, tmp_path):
    if "captions" in settings:
        settings = {**settings, "path": str(coco(tmp_path / "coco", COUNT))}
    made = dataset(**settings)
    filled(made)
    cached, streamed = made.cache(5, 1), replace(made).stream(5, print)
    requests = [range(i, i + 4) for i in range(0, 24, 4)]
    for samples in requests:
        one, other = cached.read(samples), streamed.batch(streamed.reader(samples))
        assert torch.equal(one.x_0, other.x_0)
        torch.testing.assert_close(one.cond["text"], other.cond["text"])
    torch.testing.assert_close(cached.uncond["text"], streamed.uncond["text"])


def test_a_batch_is_a_function_of_its_samples_numbers(dataset):
    filled(dataset())
    cache = dataset().cache(0, 1)
    halves = torch.cat([cache.read(range(2)).x_0, cache.read(range(2, 4)).x_0])
    assert torch.equal(cache.read(range(4)).x_0, halves)
    assert not torch.equal(cache.read(range(4)).x_0, dataset().cache(1, 1).read(range(4)).x_0)


def test_the_posterior_has_the_mean_and_deviation_of_the_autoencoder(dataset, family):
    made = dataset()
    filled(made)
    cache = made.cache(0, 1)
    draws = [s for s in range(COUNT * 400) if cache.order.pair(s) == 2]
    x_0 = cache.read(draws).x_0
    mean, std = family.encode_images(made.pairs.image(2)[None])
    torch.testing.assert_close(x_0.mean(0), mean[0], atol=0.25 * std.max().item(), rtol=0)
    ratio = x_0.std(0) / std[0]
    assert 0.8 < ratio.min() <= ratio.max() < 1.2


@pytest.mark.parametrize("streaming", [False, True])
def test_loader_processes_change_nothing(dataset, streaming):
    made = dataset(streaming=streaming, flip=True)
    if not streaming:
        filled(made)
    requests = [range(i, i + 2) for i in range(0, 12, 2)]
    kinds = [batches_at(made.batches(3, 1, print), requests, workers) for workers in (0, 2)]
    for samples in requests:
        one, other = (batch_at(samples) for batch_at in kinds)
        assert torch.equal(one.x_0, other.x_0)
        assert torch.equal(one.cond["text"], other.cond["text"])


def test_an_error_in_a_loader_process_keeps_its_own_words(dataset, images, tmp_path):
    for path in shutil.copytree(images, tmp_path / "all").glob("*.png"):
        path.write_bytes(b"")
    stream = dataset(path=str(tmp_path / "all")).stream(0, print)
    batch_at = batches_at(stream, [range(2)], workers=1)
    with pytest.raises(DataError, match=r"^none of the images can be used"):
        batch_at(range(2))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_loader_process_outlives_the_signal_that_stops_the_run(signum):
    requests = [range(i, i + 1) for i in range(6)]
    read = read_ahead(_own_pid, requests, workers=1)
    worker = read(requests[0])
    assert worker != os.getpid()
    os.kill(worker, signum)
    assert [read(samples) for samples in requests[1:]] == [worker] * 5


def test_a_process_that_ends_does_not_wait_for_its_loaders(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os\n"
        "from fewstep.data.loader import read_ahead\n"
        "read = read_ahead(len, [range(1)] * 9, workers=1)\n"
        "read(range(1))\n"
        "os.kept = read  # still alive when the interpreter ends\n"
    )
    subprocess.run([sys.executable, str(script)], check=True, timeout=60)


def _own_pid(samples) -> int:
    return os.getpid()


def test_flipped_images_are_encoded_and_half_of_the_samples(dataset, family):
    made = dataset(flip=True)
    filled(made)
    cache = made.cache(0, 1)
    mean, _ = cache._latents(1)
    image = made.pairs.image(1)
    for view, expected in enumerate((image, image.flip(-1))):
        assert torch.equal(mean[view], family.encode_images(expected[None])[0][0])


def test_captions_are_dropped_at_their_rate_and_all_of_them_are_shown(dataset, tmp_path):
    made = dataset(path=str(coco(tmp_path / "coco", COUNT)), captions="all", caption_dropout=0.25)
    filled(made)
    cache = made.cache(0, 1)
    text = cache.read(range(2000)).cond["text"]
    dropped = (text == cache.uncond["text"]).all((1, 2)).float().mean()
    assert abs(dropped - 0.25) < 0.04
    assert len(torch.unique(text, dim=0)) == 2 * COUNT + 1
    never = dataset(path=str(tmp_path / "coco")).cache
    filled(dataset(path=str(tmp_path / "coco")))
    kept = never(0, 1).read(range(200)).cond["text"]
    assert not (kept == cache.uncond["text"]).all((1, 2)).any()


def test_a_caption_is_encoded_once_however_often_it_occurs(dataset, images, tmp_path):
    folder = shutil.copytree(images, tmp_path / "same")
    for path in folder.glob("*.txt"):
        path.write_text("the same words")
    cache = filled(dataset(path=str(folder)))
    rows = [len(value) for name, value in tensors(cache).items() if name.endswith("/text")]
    assert sum(rows) == 2, "the words and the empty prompt"


def test_interrupted_anywhere_it_continues_to_the_same_cache(dataset, tmp_path):
    folder = filled(dataset())
    whole = tensors(folder)
    for kept in range(len(list(folder.glob("*.safetensors")))):
        (folder / "index.safetensors").unlink(missing_ok=True)
        for path in sorted(folder.glob("*-*.safetensors"))[kept:]:
            path.unlink()
        done = fill(dataset())
        assert done == sorted(done)
        assert done[-1] == COUNT
        assert same(whole, tensors(folder))


def test_several_processes_make_the_same_cache(dataset):
    whole = tensors(filled(dataset()))
    made, barrier = replace(dataset(), root=dataset().root / "other"), Barrier(3)
    made.claim()

    class Waiting(Processes):
        def wait(self) -> None:
            barrier.wait()

    together, done = [Waiting(rank, 3) for rank in range(3)], [[], [], []]
    threads = [
        Thread(target=lambda own=own: done[own.rank].extend(fill(made, own))) for own in together
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [count[-1] for count in done] == [3, 3, 1]
    assert same(whole, tensors(made.cache_folder))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_skipped_counted_and_listed(dataset, tmp_path, workers):
    path = coco(tmp_path / "coco", COUNT, broken=(2, 5))
    made = dataset(path=str(path), max_skipped=0.3, workers=workers)
    folder = filled(made)
    assert len(made.cache(0, 1)) == COUNT - 2
    listed = (folder / "skipped.txt").read_text().splitlines()
    names = [Path(line.split(": ")[0]).stem for line in listed]
    assert names == ["000000000002", "000000000005"]
    few = dataset(path=str(path), max_skipped=0.2)
    shutil.rmtree(folder)
    few.claim()
    with pytest.raises(DataError, match=r"2 images cannot be used, .*max_skipped allows 1"):
        fill(few)


def test_a_file_of_which_every_image_is_skipped_does_not_stop_the_rest(dataset, tmp_path):
    path = coco(tmp_path / "coco", COUNT, broken=(0, 1, 2))
    made = dataset(path=str(path), max_skipped=0.5)
    filled(made)
    assert len(made.cache(0, 1)) == COUNT - 3
    assert fill(dataset(path=str(path), max_skipped=0.5)) == [COUNT]


def test_a_stream_replaces_a_broken_image_and_tells_it(dataset, tmp_path):
    path = coco(tmp_path / "coco", COUNT, broken=(2, 5))
    told = []
    stream = dataset(path=str(path)).stream(0, told.append)
    batch = stream.batch(stream.reader(range(COUNT)))
    assert batch.x_0.isfinite().all()
    assert sorted(reason.split(":")[0][-5:] for reason in told) == ["2.jpg", "5.jpg"]


def test_no_usable_image_at_all_is_an_error(dataset, tmp_path):
    folder = folder_of(tmp_path / "p", 2, size=(20, 20))
    made = dataset(path=str(folder), max_skipped=0.99)
    made.claim()
    with pytest.raises(DataError, match=r"too few: data.resolution 64 would enlarge it"):
        fill(made)


def test_buckets_keep_sizes_apart_and_a_step_sees_one(dataset, tmp_path):
    folder = folder_of(tmp_path / "p", 5, size=(64, 64))
    for i in range(5, 9):
        noise(i, (128, 64)).save(folder / f"{i:03d}.png")
        (folder / f"{i:03d}.txt").write_text(f"image {i}")
    made = dataset(path=str(folder), buckets=True)
    filled(made)
    cache = made.cache(0, 2)
    assert len(cache.sizes) == 2
    shapes = {tuple(cache.read(range(i, i + 2)).x_0.shape) for i in range(0, 40, 2)}
    assert len(shapes) == 2
    with pytest.raises(ValueError, match=r"data.buckets.*false with data.streaming"):
        dataset(buckets=True, streaming=True)


def test_a_setting_that_has_changed_is_said_and_encoded_anew(dataset, images):
    first = dataset()
    assert first.claim() == []
    fill(first)
    assert first.claim() == []
    other = dataset(flip=True)
    (note,) = other.claim()
    assert "num_views was 1 and is 2" in note
    assert other.cache_folder != first.cache_folder
    assert first.fingerprint.made_from["codec"] == other.fingerprint.made_from["codec"]


def test_the_key_changes_with_every_setting_that_counts(dataset, images, tmp_path):
    changes = [{}, {"flip": True}, {"crop": "random"}, {"max_upscale": 3.0}, {"num_pairs": 3},
               {"captions": "all"}, {"seed": 1}, {"buckets": True},
               {"path": str(folder_of(tmp_path / "p", 2))}]  # fmt: skip
    keys = [dataset(**settings).fingerprint.key for settings in changes]
    assert len(set(keys)) == len(keys)
    (tmp_path / "link").symlink_to(images)
    harmless = (
        {"path": str(tmp_path / "link")},
        {"workers": 2},
        {"max_skipped": 0.5},
        {"caption_dropout": 0.1},
    )
    assert {dataset(**settings).fingerprint.key for settings in harmless} == {keys[0]}


def test_another_autoencoder_makes_another_cache(dataset, family):
    made = dataset()
    vae = family.vae
    with torch.no_grad():
        weight = next(vae.parameters())
        weight.add_(1.0)
        other = replace(made)
        key = other.fingerprint.key
        weight.sub_(1.0)
    assert key != made.fingerprint.key


def test_the_models_settings_beside_its_weights_count(dataset, family, tmp_path, monkeypatch):
    (tmp_path / "p.txt").write_text("a red heart\n")
    made, generated = dataset(), dataset(path=str(tmp_path / "p.txt"))
    keys = made.fingerprint.key, generated.fingerprint.key
    v_prediction = {**family.scheduler_config, "prediction_type": "v_prediction"}
    shorter = {**family.scheduler_config, "beta_end": 0.011}
    for config in (v_prediction, shorter):
        schedule = NoiseSchedule.from_config(config)
        other = replace(family, scheduler_config=config, schedule=schedule)
        assert replace(made, family=other).fingerprint.key == keys[0]
        assert replace(generated, family=other).fingerprint.key != keys[1]
    monkeypatch.setattr(family.tokenizer, "model_max_length", 5)
    assert replace(made).fingerprint.key != keys[0]
    monkeypatch.undo()
    scale = family.vae.config.scaling_factor
    family.vae.register_to_config(scaling_factor=2 * scale)
    assert replace(made).fingerprint.key != keys[0]
    family.vae.register_to_config(scaling_factor=scale)
    assert replace(made).fingerprint.key == keys[0]


def test_a_cache_of_another_model_under_this_name_is_refused(dataset):
    folder = filled(dataset())
    about = json.loads((folder / "cache.json").read_text())
    about["made_from"]["codec"] = "another"
    (folder / "cache.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match=r"holds another cache \(codec was another and is"):
        dataset().claim()


def test_other_libraries_are_said_and_never_mixed(tmp_path):
    made = {"path": "p"}
    assert claim_cache(tmp_path, Fingerprint(made, {"torch": "1"})) == []
    with pytest.raises(DataError, match=r"begun with other libraries \(torch was 1 and is 2\)"):
        claim_cache(tmp_path, Fingerprint(made, {"torch": "2"}))
    (tmp_path / Fingerprint(made, {}).key / "index.safetensors").write_bytes(b"")
    (note,) = claim_cache(tmp_path, Fingerprint(made, {"torch": "2"}))
    assert "used as it is: delete it to encode again" in note


def test_prompts_alone_are_generated_by_the_teacher(dataset, family, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_module, "GENERATED_SHARD", 2)
    (tmp_path / "p.txt").write_text("a red heart\ntwo stars\n")
    made = dataset(path=str(tmp_path / "p.txt"), num_pairs=4, teacher_steps=2)
    assert len(list(filled(made).glob("latents-*"))) == 2, "what it has generated is soon kept"
    cache = made.cache(0, 1)
    mean, std = (torch.stack([cache._latents(i)[half][0] for i in range(4)]) for half in (0, 1))
    assert mean.shape == (4, *family.latent_shape(64))
    assert std.abs().max() == 0
    assert len(torch.unique(mean, dim=0)) == 4, "the same prompt twice is two images"
    with pytest.raises(ValueError, match="holds prompts without images"):
        made.stream(0, print)
    assert made.fingerprint.key != replace(made, teacher_guidance=2.0).fingerprint.key


def test_a_shard_that_is_not_whole_is_noticed(dataset):
    folder = filled(dataset())
    path, whole = folder / "latents-000001.safetensors", tensors(folder)
    path.write_bytes(path.read_bytes()[:-10])
    tensor_file.cache_clear()
    with pytest.raises(DataError, match=r"latents-000001.* is not whole; delete it and run"):
        dataset().cache(0, 1).read(range(COUNT))
    path.unlink()
    fill(dataset())
    assert same(whole, tensors(folder)), "only what is missing is made again"
    (folder / "index.safetensors").unlink()
    with pytest.raises(DataError, match="is not complete; run fewstep prepare"):
        open_cache(folder, 0)


@pytest.mark.parametrize("name", ["index", "latents-000001"])
@pytest.mark.parametrize("kept", [0, 60, -10])
def test_a_damaged_file_of_the_cache_says_to_delete_it(dataset, name, kept):
    folder = filled(dataset())
    path, whole = folder / f"{name}.safetensors", tensors(folder)
    path.write_bytes(path.read_bytes()[:kept])
    if name != "index":
        (folder / "index.safetensors").unlink()
    with pytest.raises(DataError, match=rf"cannot read .*{name}.*; delete it and run fewstep prep"):
        fill(dataset())
    path.unlink()
    fill(dataset())
    assert same(whole, tensors(folder))


def test_no_space_is_said_before_any_work_and_leaves_nothing_half_written(dataset, monkeypatch):
    made = dataset()
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OSError, match=r"has 0 MB left and .* MB are needed"):
        made.claim()
    monkeypatch.undo()
    for module in (cache_module, encode):
        monkeypatch.setattr(module, "SHARD", 3)
    made.claim()

    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(encode, "write_file", full)
    with pytest.raises(OSError, match="No space left"):
        fill(made)
    assert [path.name for path in made.cache_folder.iterdir()] == ["cache.json"]


def test_memory_holds_the_index_and_not_the_latents(dataset):
    filled(dataset())
    cache = dataset().cache(0, 1)
    held = sum(t.numel() * t.element_size() for t in vars(cache).values() if torch.is_tensor(t))
    assert held <= 8 * (5 * COUNT + 1)

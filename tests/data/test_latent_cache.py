"""The cache gives what encoding on the fly would give, whatever happened while it was made."""

import json

import pytest
import torch
from PIL import Image

from fewstep.data import latent_cache
from fewstep.data.latent_cache import cache_key, load_cache, prepare
from fewstep.data.pairs import BundledPairs, DataError, FolderPairs, open_pairs
from fewstep.diffusion.random import generator
from fewstep.models.loading import load_model
from tests.tiny import tiny_pipeline

PAIRS = BundledPairs(num_pairs=7, resolution=64)


@pytest.fixture(scope="module")
def family():
    return load_model(tiny_pipeline())


@pytest.fixture
def folder(tmp_path, family, monkeypatch):
    monkeypatch.setattr(latent_cache, "SHARD", 3)
    prepare(PAIRS, family.encode_pictures, family.encode_prompts, tmp_path)
    return tmp_path


def test_cached_latents_equal_those_encoded_on_the_fly_to_the_bit(folder, family):
    cache = load_cache(folder, seed=5)
    batch = cache.batch_at(range(7))
    order = torch.randperm(7, generator=generator(5, "order", 0)).tolist()
    for place, row in enumerate(order):
        shard = row // 3 * 3
        pictures = torch.stack([PAIRS[i][0] for i in range(shard, min(shard + 3, 7))])
        mean, std = family.encode_pictures(pictures)
        draw = generator(5, "x_0", place)
        torch.rand((), generator=draw)  # the caption's
        noise = torch.randn(mean.shape[1:], generator=draw)
        assert torch.equal(batch.x_0[place], mean[row - shard] + std[row - shard] * noise)
        text = family.encode_prompts([PAIRS[row][1]])["text"]
        torch.testing.assert_close(batch.cond["text"][place], text[0])


def test_an_interrupted_cache_continues_and_is_the_same(folder, family, tmp_path):
    whole = load_cache(folder, seed=0)
    shard = folder / "latents-00000003.safetensors"
    shard.unlink()
    (folder / "text.safetensors").unlink()
    told = []
    prepare(PAIRS, family.encode_pictures, family.encode_prompts, folder, told.append)
    again = load_cache(folder, seed=0)
    assert told == [3, 3, 1]
    assert torch.equal(whole.mean, again.mean)
    assert torch.equal(whole.caption, again.caption)


def test_every_epoch_shows_every_pair_once_in_an_order_of_its_own(folder):
    cache = load_cache(folder, seed=0)
    first = [cache.batch_at([i]).cond["text"] for i in range(7)]
    second = [cache.batch_at([i]).cond["text"] for i in range(7, 14)]
    everything = sorted(float(text.sum()) for text in first)
    assert everything == sorted(float(text.sum()) for text in second)
    assert any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_batch_is_a_function_of_its_samples_numbers(folder):
    cache = load_cache(folder, seed=0)
    whole = cache.batch_at(range(4)).x_0
    halves = torch.cat([cache.batch_at(range(2)).x_0, cache.batch_at(range(2, 4)).x_0])
    assert torch.equal(whole, halves)


def test_caption_dropout_drops_captions_at_its_rate(folder):
    cache = load_cache(folder, seed=0, caption_dropout=0.25)
    empty = cache.uncond["text"][0]
    dropped = [torch.equal(row, empty) for row in cache.batch_at(range(2000)).cond["text"]]
    assert 0.25 - 0.04 < sum(dropped) / 2000 < 0.25 + 0.04
    whole = load_cache(folder, seed=0).batch_at(range(200)).cond["text"]
    assert not any(torch.equal(row, empty) for row in whole)


def test_the_cache_key_changes_with_all_that_it_depends_on():
    keys = {
        cache_key(PAIRS, 64, "codec"),
        cache_key(PAIRS, 64, "other codec"),
        cache_key(PAIRS, 128, "codec"),
        cache_key(BundledPairs(8, 64), 64, "codec"),
        cache_key(BundledPairs(7, 64, seed=1), 64, "codec"),
    }
    assert len(keys) == 5


def test_a_folder_gives_its_pictures_with_the_captions_beside_them(tmp_path):
    Image.new("RGB", (100, 80), (255, 0, 0)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text(" a red picture\n")
    pairs = open_pairs(str(tmp_path), 64, None, 0)
    picture, caption = pairs[0]
    assert (len(pairs), caption, picture.shape) == (1, "a red picture", (3, 64, 64))
    assert picture[:, 5, 5].tolist() == [1.0, 0.0, 0.0]


def test_what_a_folder_lacks_is_said(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        FolderPairs(tmp_path / "nowhere", 64)
    with pytest.raises(DataError, match="holds no pictures"):
        FolderPairs(tmp_path, 64)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a.png has no caption: write it into .*a.txt"):
        FolderPairs(tmp_path, 64)
    (tmp_path / "a.txt").write_text("small")
    with pytest.raises(DataError, match=r"64 x 64 pixels, fewer than data.resolution = 128"):
        FolderPairs(tmp_path, 128)[0]
    (tmp_path / "a.txt").write_bytes("größer".encode("latin-1"))
    with pytest.raises(DataError, match=r"cannot read the caption .*a.txt.*UTF-8"):
        FolderPairs(tmp_path, 64)[0]
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(DataError, match="cannot read the picture"):
        FolderPairs(tmp_path, 64)[0]


def test_captions_in_the_cache_are_the_pairs_own(folder):
    captions = latent_cache._captions(folder)
    assert captions == [PAIRS[i][1] for i in range(7)]
    assert json.dumps(captions)

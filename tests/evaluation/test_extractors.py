"""Feature extractors: real architectures with random weights, found, checked, and run once."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

from fewstep.errors import UserError
from fewstep.evaluation import features as extractors
from fewstep.evaluation.features import FeatureCache, embed_prompts, load_clip, resized
from fewstep.evaluation.inception import Inception, load_inception
from fewstep.evaluation.weights import INCEPTION, WeightsMissing, clip, weights_folder
from tests.extractors import save_clip, save_inception


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    return save_inception(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip")).parent


def noise(n=2, side=40, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), np.uint8)


def test_inception_has_as_many_weights_as_the_published_one():
    with torch.device("meta"):
        network = Inception()
    assert sum(weight.numel() for weight in network.parameters()) == 21_785_568


def test_an_image_has_2048_features_by_the_network_in_the_file(inception_file):
    features = extractors.load_fid_inception(inception_file, "cpu")(noise())
    network = load_inception(inception_file)
    with torch.no_grad():
        expected = network(resized(noise(), 299) / 127.5 - 1).numpy()
    assert features.shape == (2, 2048)
    assert np.allclose(features, expected)
    assert np.ptp(features) > 0


def test_another_networks_file_is_refused_by_name(tmp_path, inception_file):
    table = torch.load(inception_file)
    table["Mixed_9z.conv"] = torch.zeros(1)
    torch.save(table, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other weights than FID.s Inception: .*Mixed_9z"):
        load_inception(tmp_path / "other.pth")


def test_a_file_with_the_wrong_hash_is_refused(inception_file):
    with pytest.raises(UserError, match=r"sha256 begins with .* and not with 6726825d; download"):
        INCEPTION.find(inception_file.parent)
    digest = hashlib.sha256(inception_file.read_bytes()).hexdigest()
    known = replace(INCEPTION, sha256={inception_file.name: digest[:8]})
    assert known.find(inception_file.parent) == inception_file


def test_a_folder_with_other_weights_or_without_any_is_refused(tmp_path):
    wanted = clip("clip-vit-large-patch14")
    folder = tmp_path / wanted.name
    folder.mkdir()
    with pytest.raises(WeightsMissing, match=r"holds no model\.safetensors and no pytorch_model"):
        wanted.find(tmp_path)
    other = replace(wanted, sha256={"pytorch_model.bin": ""})
    (folder / "pytorch_model.bin").write_bytes(b"known")
    assert other.find(tmp_path) == folder
    (folder / "model.safetensors").write_bytes(b"another model")
    with pytest.raises(UserError, match="not with a2bf730a0c7debf1; hf download"):
        wanted.find(tmp_path)
    with pytest.raises(UserError, match=r"model\.safetensors is no known file of weights"):
        other.find(tmp_path)
    (folder / "pytorch_model.bin").unlink()
    digest = hashlib.sha256(b"another model").hexdigest()
    assert replace(wanted, sha256={"model.safetensors": digest}).find(tmp_path) == folder


def test_missing_weights_are_named_with_the_way_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert weights_folder() == tmp_path
    with pytest.raises(WeightsMissing, match=rf"needs pt_inception.*in {tmp_path}: download it"):
        INCEPTION.find()
    with pytest.raises(WeightsMissing, match="hf download openai/clip-vit-none"):
        clip("clip-vit-none").find()


def test_images_are_resized_by_pillow_channel_by_channel():
    image = noise(1, 64)
    expected = np.stack([
        np.asarray(Image.fromarray(image[0, :, :, c].astype(np.float32)).resize(
            (20, 20), Image.Resampling.BICUBIC)) for c in range(3)
    ])  # fmt: skip
    assert np.allclose(resized(image, 20)[0].numpy(), expected.clip(0, 255))
    wide = np.concatenate([noise(1, 64), noise(1, 64, seed=1)], axis=2)
    assert np.allclose(resized(wide, 64)[0].numpy(), wide[0, :, 32:96].transpose(2, 0, 1))


def test_images_and_prompts_get_the_models_own_embeddings(clip_folder):
    images = noise(3, 32)
    ours = load_clip(clip_folder, "cpu")(images)
    mean, std = (torch.tensor(v).view(3, 1, 1)
                 for v in (extractors.CLIP_MEAN, extractors.CLIP_STD))  # fmt: skip
    pixels = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std
    vision = CLIPVisionModelWithProjection.from_pretrained(clip_folder)
    assert np.allclose(ours, vision(pixels).image_embeds.detach().numpy(), atol=1e-5)
    assert ours.shape == (3, 8)

    texts = embed_prompts(clip_folder, ["a red star", "two blue rings"])
    alone = embed_prompts(clip_folder, ["two blue rings"])
    assert np.allclose(texts[1], alone[0], atol=1e-5)
    assert isinstance(CLIPTextModelWithProjection.from_pretrained(clip_folder), torch.nn.Module)


def test_images_are_seen_once_and_again_when_anything_changes(tmp_path):
    extracted = []

    def load():
        def extractor(images):
            extracted.append(len(images))
            return images.reshape(len(images), -1)[:, :3].astype(np.float32)

        return extractor

    cache = FeatureCache(tmp_path, "mine 1", load)
    first = cache.of(noise())
    assert np.array_equal(FeatureCache(tmp_path, "mine 1", load).of(noise()), first)
    assert extracted == [2]
    cache.of(noise(seed=1))
    FeatureCache(tmp_path, "mine 2", load).of(noise())
    assert extracted == [2, 2, 2]
    whole = cache.of_set("real", lambda: iter([noise(), noise(seed=1)]))
    assert whole.shape == (4, 3)
    assert np.array_equal(cache.of_set("real", lambda: iter([])), whole)


def test_clip_loads_without_a_word_of_its_libraries(clip_folder, capfd):
    load_clip(clip_folder, "cpu")
    embed_prompts(clip_folder, ["a star"])
    assert capfd.readouterr() == ("", "")

"""The feature network of the bundled world."""

from pathlib import Path

import pytest
import torch

from fewstep.world.features import (
    COUNTED,
    GROUNDS,
    FeatureNetwork,
    load_feature_network,
)
from fewstep.world.scenes import Scene, Thing
from recipes.bundled_teacher.config import load_teacher_config
from recipes.bundled_teacher.features_training import labels_of, train_features


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> FeatureNetwork:
    config = load_teacher_config(Path(__file__).with_name("tiny-teacher.toml"))
    return load_feature_network(train_features(config, tmp_path_factory.mktemp("run")))


def test_bytes_and_fractions_give_the_same_features(network):
    bytes_ = torch.randint(256, (5, 3, 64, 64), dtype=torch.uint8)
    features = network(bytes_)
    assert features.shape == (5, 8)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, network(bytes_.float() / 255))
    assert network.read(features).shape == (5, len(COUNTED) + len(GROUNDS))


def test_labels_count_the_things_of_each_kind():
    heart = Thing("heart", "red", "big", 20, 20, 11, 0)
    scene = Scene((heart, heart, Thing("star", "blue", "small", 50, 50, 7, 0)), "white")
    counts, ground = labels_of([scene])
    assert counts[0, COUNTED.index(("heart", "red"))] == 2
    assert counts[0, COUNTED.index("star")] == 1
    assert counts.sum() == 3 * 4
    assert ground.tolist() == [0]

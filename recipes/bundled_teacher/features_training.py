"""Train the feature network to count the contents of a scene, and save it."""

import json
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from fewstep.files import write_file, write_folder
from fewstep.world.features import COUNTED, GROUNDS, FeatureNetwork
from fewstep.world.scenes import Scene
from recipes.bundled_teacher.config import FeatureSettings, TeacherConfig
from recipes.bundled_teacher.optimising import LossAt, optimise, working_precision
from recipes.bundled_teacher.pool import images, scene_at


def save_feature_network(network: FeatureNetwork, settings: FeatureSettings, folder: Path) -> None:
    """Write the weights in fp16 and what is needed to build the network again."""
    weights = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
    }
    write_file(folder / "model.safetensors", save(weights))
    shape = {"channels": settings.channels, "width": settings.width}
    write_file(folder / "config.json", json.dumps(shape, indent=1) + "\n")


def train_features(config: TeacherConfig, run: Path) -> Path:
    """Train the feature network, or continue, and return the exported folder."""
    torch.manual_seed(config.seed)  # initial weights
    network = FeatureNetwork(config.features.channels, config.features.width)
    loss_at = losses_of(network, config)
    trained = optimise("features", network, loss_at, config.features, run, ema=0.99)
    folder = run / "features"
    write_folder(folder, lambda path: save_feature_network(trained, config.features, path))
    return folder


def losses_of(network: FeatureNetwork, config: TeacherConfig) -> LossAt:
    """Return the losses on a step's own scenes: squared count errors, background cross-entropy."""
    settings = config.features

    def loss_at(step: int) -> dict[str, Tensor]:
        numbers = range(step * settings.batch_size, (step + 1) * settings.batch_size)
        scenes = [scene_at(config.seed, "features", number)[0] for number in numbers]
        counts, ground = labels_of(scenes)
        with working_precision(settings):
            output = network.read(network((images(scenes) + 1) / 2)).float()
        counted, logits = output.split([len(COUNTED), len(GROUNDS)], dim=1)
        count_error = (counted - counts).square().sum(dim=1).mean()
        ground_error = F.cross_entropy(logits, ground)
        correct = (counted.round() == counts).all(dim=1).float().mean()
        return {"loss": count_error + ground_error, "ground": ground_error, "counts_right": correct}

    return loss_at


def labels_of(scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """Return the counts of everything in COUNTED, [batch, counted], and the background classes."""
    counts = torch.zeros(len(scenes), len(COUNTED))
    for row, scene in zip(counts, scenes, strict=True):
        for thing in scene.things:
            for name in (thing.shape, thing.colour, thing.size, (thing.shape, thing.colour)):
                row[COUNTED.index(name)] += 1
    return counts, torch.tensor([GROUNDS.index(scene.background) for scene in scenes])

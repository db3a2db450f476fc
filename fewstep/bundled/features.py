"""A small network that reads a scene's attributes; its features are for Fréchet distances."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.bundled.optimising import LossAt, optimise, working_precision
from fewstep.bundled.pool import pictures, scene_at
from fewstep.bundled.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, Scene
from fewstep.bundled.teacher_config import FeatureSettings, TeacherConfig
from fewstep.files import write_file, write_folder

COUNTED = [*SHAPES, *COLOURS, *SIZES, *((shape, colour) for shape in SHAPES for colour in COLOURS)]
GROUNDS = list(BACKGROUNDS)


class FeatureNetwork(nn.Module):
    """Pictures [batch, 3, 64, 64] from 0 to 1 (or uint8) to features [batch, width] in fp32."""

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((3, *channels), channels, strict=False):
            layers += [nn.Conv2d(before, after, 4, 2, 1), nn.BatchNorm2d(after), nn.SiLU()]
            layers += [nn.Conv2d(after, after, 3, 1, 1), nn.BatchNorm2d(after), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.features = nn.Linear(channels[-1], width)
        self.labels = nn.Linear(width, len(COUNTED) + len(GROUNDS))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
        return self.features(self.body(2 * x - 1).mean(dim=(2, 3))).float()

    def read(self, features: Tensor) -> Tensor:
        """Return how many things there are of all that is COUNTED, then logits of the GROUNDS."""
        return self.labels(features)


def features_folder() -> Path:
    """Return the folder of the feature network that is shipped with the package."""
    return Path(__file__).parent / "weights" / "features"


def load_feature_network(folder: Path | None = None) -> FeatureNetwork:
    """Load a feature network, by default the shipped one, in fp32 and frozen."""
    folder = folder or features_folder()
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    network = FeatureNetwork(tuple(settings["channels"]), settings["width"])
    weights = load_file(folder / "model.safetensors")
    network.load_state_dict(weights)  # copied into fp32
    return network.eval().requires_grad_(False)


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
    """Return the losses of a step's own scenes: squares of counts and cross-entropy of grounds."""
    settings = config.features

    def loss_at(step: int) -> dict[str, Tensor]:
        numbers = range(step * settings.batch_size, (step + 1) * settings.batch_size)
        scenes = [scene_at(config.seed, "features", number)[0] for number in numbers]
        counts, ground = labels_of(scenes)
        with working_precision(settings):
            read = network.read(network((pictures(scenes) + 1) / 2)).float()
        counted, logits = read.split([len(COUNTED), len(GROUNDS)], dim=1)
        count_error = (counted - counts).square().sum(dim=1).mean()
        ground_error = F.cross_entropy(logits, ground)
        right = (counted.round() == counts).all(dim=1).float().mean()
        return {"loss": count_error + ground_error, "ground": ground_error, "counts_right": right}

    return loss_at


def labels_of(scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """Return the counts of all that is COUNTED, [batch, counted], and the grounds' numbers."""
    counts = torch.zeros(len(scenes), len(COUNTED))
    for row, scene in zip(counts, scenes, strict=True):
        for thing in scene.things:
            for name in (thing.shape, thing.colour, thing.size, (thing.shape, thing.colour)):
                row[COUNTED.index(name)] += 1
    return counts, torch.tensor([GROUNDS.index(scene.background) for scene in scenes])

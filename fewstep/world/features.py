"""A small network that predicts a scene's attributes; its features are for Fréchet distances."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fewstep.world.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES

COUNTED = [*SHAPES, *COLOURS, *SIZES, *((shape, colour) for shape in SHAPES for colour in COLOURS)]
GROUNDS = list(BACKGROUNDS)


class FeatureNetwork(nn.Module):
    """Images [batch, 3, 64, 64] from 0 to 1 (or uint8) to features [batch, width] in fp32."""

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
        """Return the features [batch, width] of images [batch, 3, 64, 64]."""
        x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
        return self.features(self.body(2 * x - 1).mean(dim=(2, 3))).float()

    def read(self, features: Tensor) -> Tensor:
        """Return how many things there are of each kind in COUNTED, then logits of the GROUNDS."""
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

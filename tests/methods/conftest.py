"""Small networks with weights, as the denoisers of a training step."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


class TinyNetwork(nn.Module):
    """Predicts a velocity for latents [batch, 4] from their timestep and a text [batch, 3]."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(9, 16), nn.Linear(16, 4)
        generator = torch.Generator().manual_seed(seed)
        for weight in self.parameters():
            nn.init.normal_(weight, std=0.5, generator=generator)

    def forward(self, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        time = (t / 500).cos()[:, None]
        features = torch.cat([x_t, time, torch.ones_like(time), text], 1)
        return self.last(torch.tanh(self.first(features)))


@pytest.fixture(scope="session")
def network_of() -> Callable[[int], TinyNetwork]:
    """Network number `seed`."""
    return TinyNetwork


@pytest.fixture(scope="session")
def denoiser_of(schedule):
    """Turn a network into a denoiser, with the border's two duties: fp32, and never at CLEAN."""
    from fewstep.diffusion.prediction import output_reader

    read = output_reader("v_prediction", schedule)

    def denoiser(network: nn.Module):
        def denoise(x_t, t, cond):
            output = network(x_t, t.clamp(min=0), cond["text"])
            return read(output.to(x_t.dtype), x_t, t, schedule)

        return denoise

    return denoiser


@pytest.fixture
def nets(network_of, denoiser_of):
    """Four different networks: student, target, teacher and fake."""
    from fewstep.methods import Denoisers

    return Denoisers(*(denoiser_of(network_of(seed)) for seed in range(4)))


@pytest.fixture(scope="session")
def batch():
    """Eight samples, the same in every test."""
    from fewstep.diffusion.random import generator
    from fewstep.methods import Batch

    x_0 = torch.randn(8, 4, generator=generator("x_0"))
    return Batch(x_0, {"text": torch.randn(8, 3, generator=generator("text"))})


@pytest.fixture
def draw():
    """A fresh draw for that batch; always the same numbers."""
    from fewstep.diffusion.random import Draw

    return Draw.keyed(0, range(8), progress=0.4)

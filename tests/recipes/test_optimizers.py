"""Muon for hidden matrices, AdamW for the rest: who gets which, and what a step does."""

import pytest
import torch
from torch import nn

from recipes.bundled_teacher.config import PlanSettings
from recipes.bundled_teacher.optimizers import Optimizer


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(4, 8, 3)
        self.hidden = nn.Conv2d(8, 16, 3)
        self.linear = nn.Linear(24, 6)
        self.embeddings = nn.Embedding(5, 8)


def plan(**settings) -> PlanSettings:
    return PlanSettings(steps=10, weight_decay=0.0, **settings)


def stepped(network: nn.Module, settings: PlanSettings, rate: float) -> dict[str, torch.Tensor]:
    """Return what one step by random gradients adds to each weight."""
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for p in network.parameters():
        p.grad = torch.randn_like(p)
    Optimizer(network, settings).step(rate)
    return {name: p.detach() - before[name] for name, p in network.named_parameters()}


def test_muon_steps_hidden_matrices_orthogonally_and_adamw_the_rest():
    torch.manual_seed(0)
    rate = 1e-2
    moved = stepped(Network(), plan(muon=3.0), rate)
    for name in ("conv_in.weight", "conv_in.bias", "hidden.bias", "embeddings.weight"):
        torch.testing.assert_close(moved[name].abs(), torch.full_like(moved[name], rate))
    for name in ("hidden.weight", "linear.weight"):
        matrix = moved[name].flatten(1)
        size = 3 * rate * 0.2 * max(matrix.shape) ** 0.5  # Liu et al., equation 4
        scales = torch.linalg.svdvals(matrix) / size
        assert scales.min() > 0.5  # Newton and Schulz stop early
        assert scales.max() < 1.3


def test_without_muon_adamw_steps_every_weight():
    moved = stepped(Network(), plan(), 1e-2)
    assert all(torch.allclose(m.abs(), torch.tensor(1e-2), rtol=1e-3) for m in moved.values())


@pytest.mark.parametrize("muon", [0.0, 3.0])
def test_a_stored_state_continues_to_the_same_weights(muon):
    def trained(stop_after: int | None) -> list[torch.Tensor]:
        torch.manual_seed(0)
        network = Network()
        optimizer = Optimizer(network, plan(muon=muon))
        for step in range(4):
            if step == stop_after:
                stored = optimizer.state_dict()
                optimizer = Optimizer(network, plan(muon=muon))
                optimizer.load_state_dict(stored)
            for p in network.parameters():
                p.grad = torch.randn_like(p)
            optimizer.step(1e-2)
        return list(network.parameters())

    for whole, resumed in zip(trained(None), trained(2), strict=True):
        assert torch.equal(whole, resumed)

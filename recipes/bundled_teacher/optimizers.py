"""The optimiser of the bundled networks: AdamW, and optionally Muon for hidden matrices."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recipes.bundled_teacher.config import PlanSettings

NOT_HIDDEN = ("embeddings", "conv_in", "conv_out")  # tables, and the layers at either end
MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


class Optimizer:
    """Muon updates the hidden matrices, AdamW all the other weights.

    A convolution counts as the matrix [out, in * height * width]. Muon's updates are scaled to the
    size of AdamW's, so that one learning rate serves both, up to `plan.muon`. torch.optim.Muon
    always iterates in bf16, which most processors only emulate, many times slower; this one does
    not.

    Source: Jordan et al. 2024, "Muon"; Liu et al. 2025, arXiv:2502.16982, equation 4, for the size.
    """

    def __init__(self, network: nn.Module, plan: PlanSettings) -> None:
        named = dict(network.named_parameters())
        self.plan = plan
        self.network = network
        self.hidden = [p for name, p in named.items() if plan.muon and is_hidden(name, p)]
        self.momenta = [torch.zeros_like(p) for p in self.hidden]
        chosen = set(map(id, self.hidden))
        others = [p for p in named.values() if id(p) not in chosen]
        self.adamw = torch.optim.AdamW(
            others, betas=(0.9, 0.99), weight_decay=plan.weight_decay, fused=True
        )

    def step(self, rate: float) -> None:
        """Step at a learning rate with the present gradients, and clear them."""
        self.adamw.param_groups[0]["lr"] = rate
        self.adamw.step()
        for weight, momentum in zip(self.hidden, self.momenta, strict=True):
            if weight.grad is not None:
                self.step_hidden(weight, momentum, weight.grad, rate * self.plan.muon)
        self.network.zero_grad()

    @torch.no_grad()
    def step_hidden(self, weight: Tensor, momentum: Tensor, grad: Tensor, rate: float) -> None:
        """Update one weight by Muon, with Nesterov momentum and decoupled weight decay."""
        momentum.lerp_(grad, 1 - MOMENTUM)
        update = orthogonal(grad.lerp(momentum, MOMENTUM).flatten(1))
        size = 0.2 * max(update.shape) ** 0.5
        weight.mul_(1 - rate * self.plan.weight_decay)
        weight.sub_(update.view_as(weight), alpha=rate * size)

    def state_dict(self) -> dict:
        return {"adamw": self.adamw.state_dict(), "muon": self.momenta}

    def load_state_dict(self, state: Mapping) -> None:
        self.adamw.load_state_dict(state["adamw"])
        for momentum, stored in zip(self.momenta, state["muon"], strict=True):
            momentum.copy_(stored)


def orthogonal(matrix: Tensor) -> Tensor:
    """Return nearly U V^T of a matrix U S V^T; the singular values are roughly 0.7 to 1.2.

    Source: Jordan et al. 2024, "Muon": five Newton-Schulz steps of the quintic iteration.
    """
    a, b, c = NEWTON_SCHULZ
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(5):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x if wide else x.T


def is_hidden(name: str, weight: Tensor) -> bool:
    """Return whether a weight is a matrix from features to features."""
    return weight.ndim >= 2 and not any(part in name.split(".") for part in NOT_HIDDEN)

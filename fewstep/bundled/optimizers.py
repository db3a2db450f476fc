"""The optimiser of the bundled networks: AdamW, and Muon for hidden matrices where asked for."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fewstep.bundled.teacher_config import PlanSettings

NOT_HIDDEN = ("embeddings", "conv_in", "conv_out")  # tables, and the layers at either end


class Optimizer:
    """Muon steps orthogonal updates of the hidden matrices, AdamW steps all the other weights.

    A convolution counts as the matrix [out, in * height * width]. Muon's updates are given the size
    that AdamW's have, so that one learning rate serves both, up to `plan.muon`.

    Source: Jordan et al. 2024, "Muon"; Liu et al. 2025, arXiv:2502.16982, equation 4, for the size.
    """

    def __init__(self, network: nn.Module, plan: PlanSettings) -> None:
        named = dict(network.named_parameters())
        self.plan = plan
        self.hidden = [p for name, p in named.items() if plan.muon and is_hidden(name, p)]
        self.matrices = [nn.Parameter(p.data.flatten(1)) for p in self.hidden]  # the same memory
        chosen = set(map(id, self.hidden))
        others = [p for p in named.values() if id(p) not in chosen]
        self.network = network
        self.adamw = torch.optim.AdamW(
            others, betas=(0.9, 0.99), weight_decay=plan.weight_decay, fused=True
        )
        self.muon = (
            torch.optim.Muon(
                self.matrices, weight_decay=plan.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
            if self.matrices
            else None
        )

    def step(self, rate: float) -> None:
        """Step at a learning rate, by the gradients at hand, and drop these."""
        self.adamw.param_groups[0]["lr"] = rate
        self.adamw.step()
        if self.muon:
            self.muon.param_groups[0]["lr"] = rate * self.plan.muon
            for matrix, weight in zip(self.matrices, self.hidden, strict=True):
                matrix.grad = weight.grad.flatten(1) if weight.grad is not None else None
            self.muon.step()
            self.muon.zero_grad()
        self.network.zero_grad()

    def state_dict(self) -> dict:
        muon = {"muon": self.muon.state_dict()} if self.muon else {}
        return {"adamw": self.adamw.state_dict()} | muon

    def load_state_dict(self, state: Mapping) -> None:
        self.adamw.load_state_dict(state["adamw"])
        if self.muon:
            self.muon.load_state_dict(state["muon"])


def is_hidden(name: str, weight: Tensor) -> bool:
    """Tell whether a weight is a matrix from features to features."""
    return weight.ndim >= 2 and not any(part in name.split(".") for part in NOT_HIDDEN)

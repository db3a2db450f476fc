"""AdamW whose two moments take 8 bits a weight: float8 with a scale for every block of weights."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

BLOCK = 256
"""The weights that share a scale, as in bitsandbytes' optimisers (Dettmers et al. 2022)."""

FLOAT8 = torch.float8_e4m3fn
LARGEST, SMALLEST = 448.0, 2.0**-9
"""The range of FLOAT8's sizes: three bits of mantissa, a sixteenth of a value off at most."""


def packed(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return values as float8, [blocks, BLOCK], and the fp32 scale of each block.

    What is not zero stays at least SMALLEST scales large.
    """
    blocks = functional.pad(values.flatten(), (0, -values.numel() % BLOCK)).view(-1, BLOCK)
    scale = blocks.abs().amax(1, keepdim=True) / LARGEST
    scaled = blocks / scale.clamp(min=torch.finfo(scale.dtype).tiny)
    floor = torch.where(scaled != 0, SMALLEST, 0.0)
    return torch.copysign(scaled.abs().maximum(floor), scaled).to(FLOAT8), scale


def unpacked(codes: Tensor, scale: Tensor, like: Tensor) -> Tensor:
    """Return what was packed, in fp32 and in the shape of `like`."""
    return (codes.float() * scale).flatten()[: like.numel()].view(like.shape)


def state_bytes(weights: Iterable[Tensor]) -> int:
    """Return the bytes of the moments of these weights."""
    return sum(2 * -(-weight.numel() // BLOCK) * (BLOCK + 4) for weight in weights)


class AdamW8bit(torch.optim.Optimizer):
    """AdamW as torch's, computed in fp32 from moments that are kept in float8.

    Of the second moment the root is kept: its range is half as many powers of ten, and a weight
    whose gradient is small beside its block's keeps a root of SMALLEST scales, so that the quotient
    of both moments stays of the size that Adam's has.

    Source: Loshchilov & Hutter 2019 (AdamW), algorithm 2; Dettmers et al. 2022, block-wise scales.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group)

    def _update(self, weight: nn.Parameter, group: dict[str, Any]) -> None:
        assert weight.grad is not None
        state, gradient, (beta1, beta2) = self.state[weight], weight.grad.float(), group["betas"]
        if not state:
            state["step"] = torch.zeros(())
            for name in ("mean", "root"):
                state[name], state[f"{name}_scale"] = packed(torch.zeros_like(gradient))
        state["step"] = state["step"].cpu() + 1  # read from a checkpoint it is on the device
        steps = state["step"].item()
        mean = unpacked(state["mean"], state["mean_scale"], gradient).lerp_(gradient, 1 - beta1)
        root = unpacked(state["root"], state["root_scale"], gradient)
        root = (beta2 * root.square() + (1 - beta2) * gradient.square()).sqrt_()
        denominator = (root / (1 - beta2**steps) ** 0.5).add_(group["eps"])
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.addcdiv_(mean, denominator, value=-group["lr"] / (1 - beta1**steps))
        state["mean"], state["mean_scale"] = packed(mean)
        state["root"], state["root_scale"] = packed(root)

"""The moving average of the trained weights, in fp32 or in bf16."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fewstep.diffusion.random import generator

Key = tuple[int | str, ...]

DROPPED = 16
"""The bits of an fp32 number that bf16 has not."""


@torch.no_grad()
def update_average(
    averages: Mapping[str, Tensor], weights: Mapping[str, Tensor], decay: float, key: Key = ()
) -> None:
    """Move every average, in place, the fraction 1 - `decay` of the way to its weight.

    In bf16 a step is smaller than half the distance of two numbers: it is rounded up or down by
    chance, so that the mean is right. The chance is a function of `key`.
    """
    rounded = {name: a for name, a in averages.items() if a.dtype == torch.bfloat16}
    exact = {name: a.float() if name in rounded else a for name, a in averages.items()}
    targets = [weights[name].to(value.dtype) for name, value in exact.items()]
    torch._foreach_lerp_([*exact.values()], targets, 1 - decay)
    for name, average in rounded.items():
        average.copy_(rounded_by_chance(exact[name], name, *key))


def rounded_by_chance(value: Tensor, *key: int | str) -> Tensor:
    """Return fp32 values in bf16, rounded up with the probability that keeps their mean."""
    random = torch.Generator(value.device).manual_seed(generator("average", *key).initial_seed())
    bits = value.contiguous().view(torch.int32)
    noise = torch.randint(0, 1 << DROPPED, bits.shape, generator=random, dtype=torch.int32,
                          device=value.device)  # fmt: skip
    return ((bits + noise) >> DROPPED << DROPPED).view(torch.float32).to(torch.bfloat16)

"""Between teacher and student: a network with a part of what training changed."""

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn

from fewstep.models.adapters import folded, merge_lora
from fewstep.models.base import ModelFamily
from fewstep.student.contract import Contract
from fewstep.student.networks import student_network


def blended_network(
    family: ModelFamily, contract: Contract, weights: Mapping[str, Tensor], strength: float
) -> nn.Module:
    """Return a copy of the family's network with `strength` of a student's change.

    0 is the teacher's own network, without guidance, and 1 the student's.

    Raises:
        ModelError: as `student_network`.
    """
    if strength == 1:
        return student_network(family, contract, weights)
    if contract.adapter.get("preset") != "full":
        return merge_lora(deepcopy(family.network), folded(weights, strength))
    student = student_network(family, contract, weights)
    with torch.no_grad():
        for teacher, weight in zip(family.network.parameters(), student.parameters(), strict=True):
            weight.copy_(torch.lerp(teacher, weight, strength))
    return student

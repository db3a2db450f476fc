"""Artefacts of the tiny pipeline with a random LoRA, made without training."""

from functools import cache
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from fewstep.export.artefact import Artefact
from fewstep.export.write import write_student
from fewstep.methods import METHODS
from fewstep.models.adapters import PRESETS
from fewstep.models.base import ModelFamily, fingerprint
from fewstep.models.loading import load_model
from fewstep.student.contract import Contract
from tests.tiny import tiny_pipeline


@cache
def tiny_family() -> ModelFamily:
    return load_model(tiny_pipeline())


def random_lora(network: nn.Module, preset: str = "all", rank: int = 2, seed: int = 0):
    """Return a folded LoRA by PEFT's plain names, large enough to be seen in an image."""
    draw, weights = torch.Generator().manual_seed(seed), {}
    ends = tuple(f".{target}" for target in PRESETS[preset])
    for name, module in network.named_modules():
        if f".{name}".endswith(ends):
            shape = module.weight.shape
            weights[f"{name}.lora_A.weight"] = torch.randn(rank, *shape[1:], generator=draw) * 0.2
            weights[f"{name}.lora_B.weight"] = torch.randn(
                shape[0], rank, *[1] * (len(shape) - 2), generator=draw
            )
    return weights


def tiny_contract(
    method: str = "multi-boundary-cd",
    guidance_scale: float = 4.0,
    base: object = None,
    caption_dropout: float = 0.0,
    **settings: object,
) -> Contract:
    family = tiny_family()
    return Contract.of(
        method,
        METHODS[method](**settings),
        guidance_scale,
        family.scheduler_config,
        adapter={"preset": "all", "rank": 2, "alpha": 8.0, "num_modules": 79},
        base={"id": str(base or tiny_pipeline()), "revision": None, "variant": None,
              "fingerprint": fingerprint(family.network)},
        data={"path": "images", "num_pairs": 12, "resolution": 64, "digest": "0f",
              "caption_dropout": caption_dropout},
        train={"steps": 6, "global_batch": 2, "seed": 0, "precision": "fp32"},
        versions={"fewstep": "0.1.0"},
    )  # fmt: skip


def tiny_student(
    contract: Contract | None = None,
    weights: dict[str, Tensor] | None = None,
    license: str | None = "mit",
) -> Artefact:
    return Artefact(
        "tiny-student",
        contract or tiny_contract(),
        weights or random_lora(tiny_family().network),
        license=license,
    )


def tiny_artefact(folder: Path, *arguments: object, **settings: object) -> Path:
    """Write an artefact whose contract is `tiny_contract(...)`, and return its folder."""
    write_student(folder, tiny_student(tiny_contract(*arguments, **settings)))
    return folder


def copy_of(network: nn.Module) -> UNet2DConditionModel:
    """Return a network of the tiny pipeline's kind with these weights."""
    again = UNet2DConditionModel.from_config(network.config)
    again.load_state_dict(network.state_dict())
    return again.eval()

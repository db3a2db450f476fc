"""The designs that are timed: the reference recipe, the rungs of the ladder, and fewstep itself.

A rung is fewstep's own training loop with some parts replaced by those of the reference, so that
the difference between two rungs is the gain of one lever.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import nn

from benchmarks.speed_levers import (
    APART,
    PEFTS,
    StudentFirst,
    guided_by_two_calls,
    in_context,
    twin,
    with_forward_of,
)
from benchmarks.speed_own import Fewstep, NoiseBatches, settings
from benchmarks.speed_reference import Flags, Reference
from benchmarks.speed_work import PROMPTS, Setting, Work, fill_lora, in_plain_layout
from fewstep.diffusion.guidance import guided
from fewstep.methods import Batch, Denoisers
from fewstep.methods.cd import ConsistencyDistillation
from fewstep.training.checkpoint import TrainState
from fewstep.training.loop import train
from fewstep.training.networks import build_networks, load_family
from fewstep.training.setup import new_state, with_precision
from fewstep.types import Conditioning


@dataclass(frozen=True)
class Levers:
    """The differences between the rungs; without any, the parts work like the reference's."""

    cached: bool = False
    one_network: bool = False
    half_base: bool = False
    one_batch: bool = False
    teacher_first: bool = False
    fast_adapters: bool = False
    one_product: bool = False
    fused_optimizer: bool = False
    channels_last: bool = False
    bare_teacher: bool = False
    compiled_blocks: bool = False


class Rung(Fewstep):
    """fewstep's loop with its parts chosen by the levers."""

    def __init__(self, setting: Setting, levers: Levers) -> None:
        self.setting, self.levers = setting, levers
        config = settings(setting, setting.precision if levers.half_base else "fp32")
        config = with_precision(config, setting.device)
        family = load_family(config.model, setting.device)
        network = family.network
        if not levers.channels_last:
            in_plain_layout(family)
        self.plain = self.plain_network(network)
        self.parts = build_networks(config, family)
        roles = self.parts.roles
        fill_lora(roles.trained)
        fill_lora(roles.averaged)
        network.train()
        if not levers.fast_adapters:
            with_forward_of(PEFTS, network)
        elif not levers.one_product:
            with_forward_of(APART, network)
        self.networks = [n for n in (network, self.plain) if n is not None]
        if levers.compiled_blocks:
            for each in self.networks:
                compile_blocks(each)
        if not levers.cached:
            for part in family.vae_and_text_encoder:
                part.to(setting.half)
        self.method = (ConsistencyDistillation if levers.teacher_first else StudentFirst)(
            setting.num_solver_steps
        )
        self.batches = NoiseBatches.of(self.parts)
        if levers.cached:
            for part in family.vae_and_text_encoder:
                part.to("cpu")
        self.networks += (
            self.vae_and_text_encoder() if levers.cached else family.vae_and_text_encoder
        )
        self.images = torch.rand(setting.batch_size, 3, setting.resolution, setting.resolution)
        self.optimizer = torch.optim.AdamW(
            roles.trained.values(), lr=setting.learning_rate, fused=levers.fused_optimizer
        )
        scaler = new_state(self.parts, setting.device).scaler
        self.steps = train(
            TrainState(roles.trained, roles.averaged, self.optimizer, scaler),
            self.method,
            self.denoisers(self.batches.uncond),
            family.schedule,
            self.batch_at,
            settings=config.train,
        )

    def plain_network(self, network: nn.Module) -> nn.Module | None:
        """Return the teacher's network, if it is not the student's."""
        if not self.levers.one_network:
            return deepcopy(network).to(self.setting.half)
        return twin(network) if self.levers.bare_teacher else None

    def batch_at(self, samples: Sequence[int]) -> Batch:
        if self.levers.cached:
            read = self.batches.read(samples)
            cond = {name: rows.to(self.setting.device) for name, rows in read.cond.items()}
            return Batch(read.x_0.to(self.setting.device), cond)
        family, size = self.parts.family, len(samples)
        with self.setting.autocast():
            mean, std = family.encode_images(self.images[:size])
            cond = family.encode_prompts((PROMPTS * size)[:size])
        return Batch((mean + std * torch.randn_like(mean)).float(), cond)

    def denoisers(self, uncond: Conditioning) -> Denoisers:
        family, roles, setting = self.parts.family, self.parts.roles, self.setting
        teacher = family.denoiser(self.plain) if self.plain else roles.teacher
        guide = guided if self.levers.one_batch else guided_by_two_calls
        context = nullcontext if self.levers.half_base else setting.autocast
        uncond = {name: row.to(setting.device) for name, row in uncond.items()}
        return Denoisers(
            student=in_context(context, roles.student),
            target=in_context(context, roles.student),
            teacher=guide(in_context(context, teacher), uncond, setting.guidance_scale),
        )


def compile_blocks(network: nn.Module) -> None:
    """Compile each residual and transformer block of a network in place."""
    for block in network.modules():
        if type(block).__name__ in ("BasicTransformerBlock", "ResnetBlock2D"):
            block.compile()


def ladder() -> dict[str, Levers]:
    """Return the rungs, each with all levers of the ones before; the last is fewstep's design."""
    steps = {
        "levers off": {},
        "cached latents": {"cached": True},
        "one network": {"one_network": True},
        "half-precision base": {"half_base": True},
        "teacher in one batch": {"one_batch": True},
        "teacher first": {"teacher_first": True},
        "lean adapters": {"fast_adapters": True},
        "one product": {"one_product": True},
        "fused optimizer": {"fused_optimizer": True},
        "channels last": {"channels_last": True},
    }
    rungs, levers = {}, Levers()
    for name, lever in steps.items():
        levers = replace(levers, **lever)
        rungs[name] = levers
    return rungs | {name: replace(levers, **lever) for name, lever in EXTRA.items()}


EXTRA = {
    "bare teacher": {"bare_teacher": True},
    "compiled blocks": {"compiled_blocks": True},
}
"""Levers that are not part of fewstep's design, each on top of it."""
REFERENCES = {
    "reference": Flags(),
    "reference, checkpointing": Flags(gradient_checkpointing=True),
    "reference, fp32 teacher": Flags(cast_teacher_unet=False),
}
LADDER = ladder()
OWN: dict[str, dict[str, object]] = {
    "fewstep": {},
    "fewstep, full checkpointing": {"checkpointing": "full"},
    "fewstep, selective checkpointing": {"checkpointing": "selective"},
    "fewstep, compiled": {"compile": True},
}
DESIGNS = [*REFERENCES, *LADDER, *OWN]
"""The names of all designs; the first is the baseline."""
HALF = {"reference, fp32 teacher", "half-precision base"}
"""The designs that differ only in half precision."""
WHOLE = {"one product"}
"""The designs that differ only in fp32."""


def build(name: str, setting: Setting) -> Work:
    """Return a design by its name, ready to step."""
    if name in REFERENCES:
        return Reference(setting, REFERENCES[name])
    if name in LADDER:
        return Rung(setting, LADDER[name])
    return Fewstep(setting, **OWN[name])

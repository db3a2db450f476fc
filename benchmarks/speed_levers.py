"""The parts by which a rung of the ladder replaces fewstep's own."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import torch
from torch import nn

from fewstep.diffusion.guidance import guided
from fewstep.diffusion.prediction import Prediction
from fewstep.diffusion.random import Draw
from fewstep.diffusion.schedule import CLEAN, NoiseSchedule
from fewstep.diffusion.solvers import SOLVERS, ddim
from fewstep.methods import Batch, Denoisers
from fewstep.methods.base import LossOutput, measure
from fewstep.methods.cd import ConsistencyDistillation
from fewstep.models.lora_layers import FAST_LAYERS, active_sum
from fewstep.types import Conditioning, Denoiser, Latents, Timesteps


class StudentFirst(ConsistencyDistillation):
    """Consistency distillation that keeps the student's activations while the teacher runs."""

    def loss(
        self, nets: Denoisers, batch: Batch, schedule: NoiseSchedule, draw: Draw
    ) -> LossOutput:
        t, s = draw.neighbours(self.grid(schedule.num_train_timesteps).timesteps)
        end = torch.full_like(t, CLEAN)
        x_t = schedule.add_noise(batch.x_0, draw.noise_like(batch.x_0), t)
        pred = ddim(nets.student, x_t, t, end, batch.cond)
        with torch.no_grad():
            x_s = SOLVERS[self.solver](nets.teacher, x_t, t, s, batch.cond)
            target = ddim(nets.target, x_s, s, end, batch.cond)
        return LossOutput(measure(self, pred - target, t, s, end, schedule), t)


def guided_by_two_calls(
    denoiser: Denoiser[Prediction], uncond: Conditioning, guidance_scale: float
) -> Denoiser[Prediction]:
    """Return `guided` with two network evaluations instead of one on a doubled batch."""

    def twice(x: Latents, t: Timesteps, cond: Conditioning) -> Prediction:
        halves = [
            denoiser(x_half, t_half, {name: rows.chunk(2)[i] for name, rows in cond.items()})
            for i, (x_half, t_half) in enumerate(zip(x.chunk(2), t.chunk(2), strict=True))
        ]
        x_0, eps = (torch.cat([getattr(half, n) for half in halves]) for n in ("x_0", "eps"))
        return Prediction(x_0, eps, halves[0].schedule)

    return guided(twice, uncond, guidance_scale)


def in_context(
    context: Callable[[], AbstractContextManager], denoiser: Denoiser[Prediction]
) -> Denoiser[Prediction]:
    """Return the denoiser, called inside a new context each time."""

    def denoise(x_t: Latents, t: Timesteps, cond: Conditioning) -> Prediction:
        with context():
            return denoiser(x_t, t, cond)

    return denoise


def twin(network: nn.Module) -> nn.Module:
    """Return a second network with the same weights, which gets no adapter from the first."""
    with torch.device("meta"):
        other = type(network).from_config(network.config)  # type: ignore[attr-defined]
    other.load_state_dict(network.state_dict(), assign=True)
    return other.eval().requires_grad_(False)


class LinearInInputPrecision(nn.Linear):
    """A linear layer with fp32 weights that computes in the precision of its input."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(input, self.weight.to(input.dtype))


class Conv2dInInputPrecision(nn.Conv2d):
    """A convolution with fp32 weights that computes in the precision of its input."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(input, self.weight.to(input.dtype), None)


PEFTS: dict[type, type] = {fast: own for own, fast in FAST_LAYERS.items()}
"""PEFT's own forward pass."""
APART: dict[type, type] = {
    fast: type(fast.__name__, (own,), {"forward": active_sum}) for own, fast in FAST_LAYERS.items()
}
"""A fast forward pass that never adds an adapter to its layer's weight."""
IN_INPUT_PRECISION = {nn.Linear: LinearInInputPrecision, nn.Conv2d: Conv2dInInputPrecision}


def with_forward_of(classes: Mapping[type, type], network: nn.Module) -> None:
    """Replace the forward pass of the layers with adapters by that of other classes."""
    for layer in network.modules():
        if type(layer) in classes:
            layer.__class__ = classes[type(layer)]
            layer.cast_input_dtype_enabled = False  # otherwise PEFT copies its input in fp32
            for factor in (*layer.lora_A.values(), *layer.lora_B.values()):
                factor.__class__ = IN_INPUT_PRECISION.get(type(factor), type(factor))

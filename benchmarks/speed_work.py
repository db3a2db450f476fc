"""What the timed designs share: the setting, a probe of their gradients, their memory."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from benchmarks.speed_models import SIZES, TOKENS
from fewstep.diffusion.random import generator
from fewstep.models.base import ModelFamily
from fewstep.models.loading import load_model

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PROMPTS = ["a red heart above a blue star", "two green rings", "a small yellow square", "a cross"]


@dataclass(frozen=True)
class Setting:
    """The work of all designs."""

    model: str
    folder: str
    device: str = "cpu"
    precision: str = "fp32"
    batch_size: int = 2
    resolution: int = 64
    rank: int = 64
    guidance_scale: float = 8.0
    num_solver_steps: int = 40
    learning_rate: float = 1e-6
    threads: int = 1
    memory_cap: float | None = None
    """GB of the GPU's memory that a design may use."""

    def begin(self) -> None:
        """Limit this process to its part of the machine, and seed it."""
        torch.manual_seed(0)
        torch.set_num_threads(self.threads)
        if self.memory_cap is not None:
            whole = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(self.memory_cap * 1e9 / whole)

    @property
    def half(self) -> torch.dtype:
        """The dtype of frozen weights: fp32 if the precision is fp32."""
        return DTYPES[self.precision]

    @property
    def probe_scale(self) -> float:
        """The factor of a probe's loss, so that its gradient is in fp16's range."""
        return 2.0**14 if self.precision == "fp16" else 1.0

    def autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device, self.half, enabled=self.precision != "fp32")

    def family(self, dtype: torch.dtype = torch.float32) -> ModelFamily:
        return load_model(self.folder, dtype=dtype, device=self.device)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.resolution // SIZES[self.model].factor
        return 4, side, side


@dataclass(frozen=True)
class Probe:
    """Inputs that are the same for all designs, to compare their gradients.

    `index` counts the timesteps of the solver's grid from 0, the cleanest, which is left out: there
    the reference ends at timestep 0 and fewstep at clean data.
    """

    latents: Tensor
    noise: Tensor
    text: Tensor
    uncond: Tensor
    index: Tensor

    @classmethod
    def of(cls, setting: Setting) -> "Probe":
        random = generator("speed", "probe")
        size, width = setting.batch_size, SIZES[setting.model].text["hidden_size"]
        shapes = ((size, *setting.latent_shape), (size, *setting.latent_shape),
                  (size, TOKENS, width), (1, TOKENS, width))  # fmt: skip
        drawn = [torch.randn(shape, generator=random).to(setting.device) for shape in shapes]
        index = torch.randint(1, setting.num_solver_steps, (size,), generator=random)
        return cls(*drawn, index.to(setting.device))


class Work(Protocol):
    """A design of training that can be timed."""

    def step(self) -> None:
        """Take one optimiser step."""
        ...

    def gradients(self, probe: Probe) -> dict[str, Tensor]:
        """Return the loss's gradient in each weight of the adapter, by its plain PEFT name."""
        ...

    def static_bytes(self) -> int:
        """Return the memory that does not depend on the batch."""
        ...


def in_plain_layout(family: ModelFamily) -> None:
    """Return all parts to PyTorch's default memory layout, from fewstep's channels last."""
    for part in (family.network, *family.vae_and_text_encoder):
        part.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


@torch.no_grad()
def fill_lora(weights: Mapping[str, Tensor]) -> None:
    """Fill an adapter's weights with noise by their names: the same in all designs."""
    for name, weight in weights.items():
        drawn = torch.randn(
            weight.shape, generator=generator("speed", name.removesuffix(".weight"))
        )
        weight.copy_(drawn * weight[0].numel() ** -0.5 * (1.0 if "lora_A" in name else 0.1))


def network_bytes(networks: Iterable[nn.Module], *more: Tensor) -> int:
    """Return the bytes of all weights and of further tensors; shared storage counts once."""
    tensors = [t for network in networks for t in (*network.parameters(), *network.buffers())]
    storages = [tensor.untyped_storage() for tensor in (*tensors, *more)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def tensor_bytes(
    networks: Iterable[nn.Module],
    optimizer: torch.optim.Optimizer,
    trained: Mapping[str, nn.Parameter],
) -> int:
    """Return the bytes of all weights, of their gradients and of the optimiser's state."""
    state = [value for entries in optimizer.state.values() for value in entries.values()]
    return network_bytes(networks, *state) + sum(weight.nbytes for weight in trained.values())

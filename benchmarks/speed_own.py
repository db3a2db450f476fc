"""fewstep's own training on the work of a setting."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.speed_work import PROMPTS, Probe, Setting, fill_lora, tensor_bytes
from fewstep.config import (
    AdapterSettings,
    Config,
    DataSettings,
    ModelSettings,
    Quantize,
    TeacherSettings,
    TrainSettings,
)
from fewstep.data.cache import LatentCache
from fewstep.diffusion.random import Draw, generator
from fewstep.methods import Batch, Denoisers
from fewstep.training.distill import steps_of
from fewstep.training.networks import Networks
from fewstep.training.setup import Components, build
from fewstep.types import Conditioning, Timesteps

NUM_CACHED = 64


def settings(
    setting: Setting,
    precision: str,
    method: str = "cd",
    quantize: Quantize = "none",
    **train: object,
) -> Config:
    """Return the settings of a run on this setting's work."""
    return Config(
        method={"name": method, "num_solver_steps": setting.num_solver_steps},
        model=ModelSettings(
            base=setting.folder, precision=precision, quantize=quantize,  # type: ignore[arg-type]
        ),
        teacher=TeacherSettings(setting.guidance_scale),
        adapter=AdapterSettings("all", setting.rank),
        data=DataSettings(num_pairs=NUM_CACHED, resolution=setting.resolution),
        train=TrainSettings(
            steps=10**9, batch_size=setting.batch_size, learning_rate=setting.learning_rate,
            warmup=0, decay="constant", **train,  # type: ignore[arg-type]
        ),
    )  # fmt: skip


def components(setting: Setting, precision: str, **others: object) -> Components:
    """Return the components of a run on this setting's work."""
    config = settings(setting, precision, **others)  # type: ignore[arg-type]
    return build(config, Path(setting.folder), setting.device)


@dataclass(frozen=True)
class NoiseBatches:
    """Random latents in memory: the content of a cache does not change the cost of a step."""

    mean: Tensor
    uncond: Conditioning
    cond: Conditioning

    @classmethod
    def of(cls, networks: Networks) -> "NoiseBatches":
        family = networks.family
        shape = (NUM_CACHED, *family.latent_shape(networks.resolution))
        texts = (family.encode_prompts(prompts) for prompts in ([""], PROMPTS))
        uncond, cond = ({name: row.cpu() for name, row in text.items()} for text in texts)
        return cls(torch.randn(shape, generator=generator("speed", "latents")), uncond, cond)

    def __len__(self) -> int:
        return NUM_CACHED

    @property
    def reader(self) -> Callable[[Sequence[int]], Batch]:
        return self.read

    def batch(self, read: Batch) -> Batch:
        return read

    def read(self, samples: Sequence[int]) -> Batch:
        """Return the samples with these numbers of the run, in order."""
        rows = [sample % NUM_CACHED for sample in samples]
        texts = [sample % len(PROMPTS) for sample in samples]
        return Batch(self.mean[rows], {name: row[texts] for name, row in self.cond.items()})


@dataclass(frozen=True)
class ProbeDraw(Draw):
    """The draws of a probe: its noise, and its timesteps on the solver's grid."""

    probe: Probe | None = None

    def noise_like(self, x: Tensor) -> Tensor:
        assert self.probe is not None
        return self.probe.noise

    def neighbours(self, timesteps: Sequence[int]) -> tuple[Timesteps, Timesteps]:
        assert self.probe is not None
        grid = torch.tensor(timesteps, device=self.probe.index.device)
        return grid[self.probe.index + 1], grid[self.probe.index]


class Fewstep:
    """fewstep as it trains, from its settings alone."""

    def __init__(
        self, setting: Setting, batches: LatentCache | None = None, **others: object
    ) -> None:
        self.setting = setting
        self.parts = parts = components(setting, setting.precision, **others)
        self.batches = batches or NoiseBatches.of(parts)
        self.method, self.optimizer = parts.method, parts.state.optimizer
        parts.offload()
        self.networks = [parts.network_for_training(), *self.vae_and_text_encoder()]
        fill_lora(parts.roles.trained)
        fill_lora(parts.roles.averaged)
        self.steps = steps_of(parts, self.batches)

    def step(self) -> None:
        next(self.steps)

    def vae_and_text_encoder(self) -> Sequence[nn.Module]:
        """Return VAE and text encoder if they take memory; on a GPU they are offloaded."""
        on_gpu = torch.device(self.setting.device).type == "cuda"
        return () if on_gpu else self.parts.family.vae_and_text_encoder

    def denoisers(self, uncond: Conditioning) -> Denoisers:
        """Return the roles of a step with this unconditional prompt."""
        return self.parts.denoisers(uncond)

    def gradients(self, probe: Probe) -> dict[str, Tensor]:
        nets = self.denoisers({"text": probe.uncond})
        batch = Batch(probe.latents, {"text": probe.text})
        schedule = self.parts.family.schedule
        loss = self.method.loss(nets, batch, schedule, ProbeDraw((), probe=probe)).loss.mean()
        (self.setting.probe_scale * loss).backward()
        trained = self.parts.roles.trained
        gradients = {n: w.grad.clone() for n, w in trained.items() if w.grad is not None}
        self.optimizer.zero_grad(set_to_none=True)
        return gradients

    def static_bytes(self) -> int:
        return tensor_bytes(self.networks, self.optimizer, self.parts.roles.trained)

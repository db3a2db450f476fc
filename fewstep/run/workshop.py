"""From settings to the parts of one run, each built when it is first asked for."""

import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from fewstep.config import AdapterSettings, Config, SettingError, from_tables
from fewstep.data.loader import Batches
from fewstep.data.pairs import Pairs
from fewstep.data.prompts import Prompts
from fewstep.diffusion.guidance import guided
from fewstep.methods import METHODS, Denoisers, Method
from fewstep.models.adapters import Roles, full_roles, lora_roles
from fewstep.models.base import ModelFamily
from fewstep.models.loading import load_model
from fewstep.run.supply import Supply
from fewstep.sampling.contract import Contract
from fewstep.sampling.painter import TEACHER_GUIDANCE
from fewstep.training.checkpoint import Checkpoints
from fewstep.training.trainer import Weights

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def build_method(settings: Mapping[str, Any]) -> tuple[str, Method]:
    """Return the name and the method that the table [method] asks for.

    Raises:
        SettingError: if the name or a field is unknown, or a value cannot be used.
    """
    fields = dict(settings)
    name = fields.pop("name", None)
    if name not in METHODS:
        raise SettingError(f"method.name is {name!r}; known: {', '.join(METHODS)}")
    try:
        return name, from_tables(METHODS[name], fields, "method.")
    except SettingError:
        raise
    except ValueError as error:
        raise SettingError(str(error)) from error


@dataclass(frozen=True)
class Workshop:
    """The parts of one run, each built when it is first asked for."""

    config: Config
    run: Path
    device: torch.device | str = "cpu"

    @cached_property
    def named_method(self) -> tuple[str, Method]:
        return build_method(self.config.method)

    @cached_property
    def family(self) -> ModelFamily:
        model = self.config.model
        return load_model(
            model.base,
            dtype=DTYPES[model.precision],
            device=self.device,
            revision=model.revision,
            variant=model.variant,
        )

    @property
    def guidance_scale(self) -> float:
        """The teacher's scale; a method without a teacher knows none.

        Raises:
            SettingError: if a scale is set for a method that would not use it.
        """
        (name, method), chosen = self.named_method, self.config.teacher.guidance_scale
        if method.has_teacher:
            return TEACHER_GUIDANCE if chosen is None else chosen
        if chosen not in (None, 1.0):
            raise SettingError(
                f"teacher.guidance_scale is {chosen}, but {name} learns from data and not from a "
                "teacher: leave it out, or choose a method that distils one (cd, multi-boundary-cd)"
            )
        return 1.0

    @property
    def resolution(self) -> int:
        """The side of the pictures; where none is set that of the model."""
        return self.config.data.resolution or self.family.default_resolution

    @property
    def resolved(self) -> Config:
        """The config with every default that does not stand in it: the method's and the model's."""
        name, method = self.named_method
        return replace(
            self.config,
            method={"name": name} | asdict(method),  # type: ignore[call-overload]
            teacher=replace(self.config.teacher, guidance_scale=self.guidance_scale),
            data=replace(self.config.data, resolution=self.resolution),
        )

    @cached_property
    def supply(self) -> Supply:
        """The data; prompts alone are painted with the scale set, or else with the usual one."""
        data, scale = self.config.data, self.config.teacher.guidance_scale
        return Supply(
            settings=data,
            family=self.family,
            resolution=self.resolution,
            root=Path(data.cache or self.run.parent / "cache"),
            teacher_guidance=TEACHER_GUIDANCE if scale is None else scale,
        )

    @property
    def pairs(self) -> Pairs | Prompts:
        return self.supply.pairs

    def batches(self, start: Callable[[int], Callable[[int], None]]) -> Batches:
        """Encode what is not encoded yet, and return what training reads.

        `start` is told how many pairs there are to encode, and gives what is told of each.
        """
        data, train = self.config.data, self.config.train
        if not data.streaming:
            self.supply.claim()
            self.supply.fill(advance=start(len(self.pairs)))
        return self.supply.batches(train.seed, train.batch_size * train.accumulate, self._skipped)

    def _skipped(self, reason: str) -> None:
        with open(self.run / "skipped.txt", "a", encoding="utf-8") as file:
            file.write(f"{' '.join(reason.split())}\n")

    @cached_property
    def roles(self) -> Roles:
        adapter = self.config.adapter
        if adapter is None:
            return full_roles(self.family)
        return lora_roles(
            self.family,
            adapter.preset,
            adapter.rank,
            lora_alpha(adapter),
            adapter.dropout,
            self.config.train.seed,
        )

    @cached_property
    def weights(self) -> Weights:
        return Weights(self.roles.trained, self.roles.averaged)

    def denoisers(self, batches: Batches) -> Denoisers:
        roles = self.roles
        uncond = {name: row.to(self.device) for name, row in batches.uncond.items()}
        return Denoisers(
            student=roles.student,
            target=roles.ema if self.config.train.target == "ema" else roles.student,
            teacher=guided(roles.teacher, uncond, self.guidance_scale),
        )

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        train = self.config.train
        return torch.optim.AdamW(
            self.weights.trained.values(), lr=train.learning_rate, weight_decay=train.weight_decay
        )

    @cached_property
    def checkpoints(self) -> Checkpoints:
        folder = self.run / "checkpoints"
        return Checkpoints(folder, self.weights, self.optimizer, self.config.train.keep_last)

    def contract(self) -> Contract:
        """Write down what the student promises."""
        config, (name, method) = self.config, self.named_method
        return Contract.of(
            name,
            method,
            self.guidance_scale,
            self.family.scheduler_config,
            adapter=_adapter_entry(config.adapter, len(self.weights.trained) // 2),
            base={
                "id": config.model.base,
                "revision": config.model.revision,
                "variant": config.model.variant,
                "fingerprint": self.family.fingerprint,
            },
            data={
                "path": config.data.path,
                "num_pairs": len(self.pairs),
                "resolution": self.resolution,
                "digest": self.supply.fingerprint.key,
            },
            train={
                "steps": config.train.steps,
                "global_batch": config.train.batch_size * config.train.accumulate,
                "seed": config.train.seed,
            },
            versions=versions(),
        )


def lora_alpha(adapter: AdapterSettings) -> float:
    """Return alpha; where none is set it is the rank, so that the update's scale is 1."""
    return float(adapter.rank) if adapter.alpha is None else adapter.alpha


def _adapter_entry(adapter: AdapterSettings | None, num_modules: int) -> dict[str, Any]:
    if adapter is None:
        return {"preset": "full"}
    return {
        "preset": adapter.preset,
        "rank": adapter.rank,
        "alpha": lora_alpha(adapter),
        "num_modules": num_modules,
    }


def versions() -> dict[str, str]:
    """Return the versions of the libraries that decide the numbers."""
    names = ("fewstep", "torch", "diffusers", "transformers", "peft", "safetensors", "numpy")
    return {name: importlib.metadata.version(name) for name in names}

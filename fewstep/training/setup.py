"""From settings to the parts of one run, each built when it is first asked for."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.amp.grad_scaler import GradScaler

from fewstep.config import AdapterSettings, Config, Precision, SettingError, from_tables
from fewstep.data.dataset import Dataset
from fewstep.data.loader import Batches
from fewstep.data.pairs import Pairs, Prompts
from fewstep.data.stream import Skipped
from fewstep.diffusion.guidance import guided
from fewstep.distributed import Processes
from fewstep.methods import METHODS, Denoisers, Method
from fewstep.models.adapters import Roles, full_roles, lora_roles
from fewstep.models.base import ModelFamily
from fewstep.models.checkpointing import set_checkpointing
from fewstep.models.loading import load_model
from fewstep.models.precision import DTYPES, precision_for
from fewstep.student.generate import TEACHER_GUIDANCE
from fewstep.training.checkpoint import Checkpoints
from fewstep.training.divergence import Watch
from fewstep.training.loop import Weights

Start = Callable[[int], Callable[[int], None]]
"""Shows progress: it gets the total, and returns what gets the number of each part done."""


def build_method(settings: Mapping[str, Any]) -> tuple[str, Method]:
    """Return the name and the method that the table [method] asks for.

    Raises:
        SettingError: if the name or a field is unknown, or a value cannot be used.
    """
    fields = dict(settings)
    name = fields.pop("name", None)
    if not isinstance(name, str) or name not in METHODS:
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
            dtype=DTYPES[self.precision],
            device=self.device,
            revision=model.revision,
            variant=model.variant,
            config=model.config,
            allow_pickle=model.allow_pickle,
        )

    @property
    def precision(self) -> Precision:
        """The precision of everything that is not trained."""
        return precision_for(self.config.model.precision, self.device)

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
        """The side of the images; where none is set that of the model."""
        return self.config.data.resolution or self.family.default_resolution

    @property
    def resolved(self) -> Config:
        """The config with every default that does not stand in it: the method's and the model's."""
        name, method = self.named_method
        return replace(
            self.config,
            model=replace(self.config.model, precision=self.precision),
            method={"name": name} | asdict(method),  # type: ignore[call-overload]
            teacher=replace(self.config.teacher, guidance_scale=self.guidance_scale),
            data=replace(self.config.data, resolution=self.resolution),
            train=replace(self.config.train, processes=self.processes.count),
        )

    @cached_property
    def dataset(self) -> Dataset:
        """The data; prompts alone are generated with the scale set, or else with the usual one.

        The first process looks through shards, and the others read what it found.
        """
        data, scale = self.config.data, self.config.teacher.guidance_scale
        with self.processes.main_process_first():
            dataset = Dataset(
                settings=data,
                family=self.family,
                resolution=self.resolution,
                root=Path(data.cache or self.run.parent / "cache"),
                teacher_guidance=TEACHER_GUIDANCE if scale is None else scale,
            )
        self._check_same(dataset)
        return dataset

    def _check_same(self, dataset: Dataset) -> None:
        """Refuse data or models that are not the same for all processes.

        Raises:
            SettingError: in each of them.
        """
        if self.processes.count > 1:
            mine = int(dataset.fingerprint.key, 16) >> 1  # as many bits as a tensor's number has
            if self.processes.all_reduce_max(mine) != -self.processes.all_reduce_max(-mine):
                raise SettingError(
                    f"data.path {self.config.data.path!r} or model.base is not the same for all "
                    "processes: other files, sizes or times; put them where every node sees them"
                )

    @property
    def pairs(self) -> Pairs | Prompts:
        return self.dataset.pairs

    def prepare(self, start: Start) -> list[str]:
        """Encode what is not encoded yet, each process its share; return what is to be known."""
        processes, dataset = self.processes, self.dataset  # all meet there, the first too
        notes = dataset.claim() if processes.is_main else []
        processes.wait()
        advance, before = None, 0
        for step in dataset.fill(processes):
            advance = advance or start(step.total)
            advance(step.done - before)
            before = step.done
        return notes

    def batches(self, start: Start) -> Batches:
        """Return what training reads; a cache is filled first."""
        if not self.config.data.streaming:
            for note in self.prepare(start):
                print(f"fewstep: {note}", file=sys.stderr)
        batches = self.dataset.batches(self.config.train.seed, self.global_batch, self.skipped.add)
        self.check_batch(len(batches))
        return batches

    @cached_property
    def processes(self) -> Processes:
        """The processes that train together.

        Raises:
            SettingError: if they are not as many as the config says.
        """
        processes, wanted = Processes.started(self.device), self.config.train.processes
        if wanted not in (None, processes.count):
            raise SettingError(
                f"train.processes is {wanted}, and {processes.count} started: start them by "
                f"torchrun --nproc-per-node {wanted} -m -- fewstep distill …, or leave it out"
            )
        return processes

    @property
    def global_batch(self) -> int:
        """How many samples a step takes."""
        train = self.config.train
        return train.batch_size * train.accumulate * self.processes.count

    def check_batch(self, num_pairs: int) -> None:
        """Refuse a step that takes more samples than there are pairs.

        Raises:
            SettingError: naming the settings.
        """
        if self.global_batch > num_pairs:
            train, path = self.config.train, self.config.data.path
            raise SettingError(
                f"a step takes {self.global_batch} samples (train.batch_size = {train.batch_size}, "
                f"train.accumulate = {train.accumulate}, {self.processes.count} processes), and "
                f"data.path {path!r} has {num_pairs} pairs: lower these, or give more pairs"
            )

    @cached_property
    def skipped(self) -> Skipped:
        """What streaming leaves out."""
        limit = self.config.data.max_skipped * len(self.pairs)
        return Skipped(self.run / "skipped.txt", limit, self.processes)

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
            dropout=adapter.dropout,
            seed=self.config.train.seed,
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
    def network(self) -> torch.nn.Module:
        """The network of the student's role, ready for training."""
        network, train = self.roles.network, self.config.train
        set_checkpointing(network, train.checkpointing)
        if train.compile:
            network.compile()
        return network.train()

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        train = self.config.train
        return torch.optim.AdamW(
            self.weights.trained.values(),
            lr=train.learning_rate,
            weight_decay=train.weight_decay,
            fused=True,
        )

    @cached_property
    def scaler(self) -> GradScaler:
        """The loss's scale, which fp16 needs and no other precision."""
        device = torch.device(self.device).type
        return GradScaler(device, enabled=self.precision == "fp16")

    @cached_property
    def watch(self) -> Watch:
        return Watch()

    @property
    def on_gpu(self) -> bool:
        return torch.device(self.device).type == "cuda"

    @cached_property
    def checkpoints(self) -> Checkpoints:
        keep_last = self.config.train.keep_last
        folder = self.run / "checkpoints"
        return Checkpoints(folder, self.weights, self.optimizer, keep_last, self.scaler, self.watch)

    def park_codec(self) -> None:
        """Free the GPU of what only encodes and decodes, where no step needs it."""
        if self.on_gpu and not self.config.data.streaming:
            for part in self.family.vae_and_text_encoder:
                part.to("cpu")
            torch.cuda.empty_cache()

    @contextmanager
    def codec_at_work(self) -> Iterator[None]:
        """Have autoencoder and text encoder on the device, and park them again."""
        for part in self.family.vae_and_text_encoder:
            part.to(self.device)
        try:
            yield
        finally:
            self.park_codec()


def lora_alpha(adapter: AdapterSettings) -> float:
    """Return alpha; where none is set it is the rank, so that the update's scale is 1."""
    return float(adapter.rank) if adapter.alpha is None else adapter.alpha

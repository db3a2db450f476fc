"""From settings to the components of a run, all built at once."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from fewstep.config import TEACHER_GUIDANCE, Config, SettingError, TrainSettings
from fewstep.data.dataset import Dataset
from fewstep.data.stream import Skipped
from fewstep.distributed import Processes
from fewstep.methods import LearnsFake
from fewstep.methods.base import needs_latents
from fewstep.models.base import ModelFamily
from fewstep.models.precision import precision_for
from fewstep.models.prompts import warn_of_cut
from fewstep.student.generate import check_decoder
from fewstep.student.sample import check_words
from fewstep.training.adamw8bit import AdamW8bit
from fewstep.training.checkpoint import Checkpoints, TrainState
from fewstep.training.init import start_from
from fewstep.training.loop import FakeTraining
from fewstep.training.networks import Networks, build_networks, load_family
from fewstep.training.settings import build_method, check_batch, check_settings

OPTIMIZERS = {"adamw": partial(torch.optim.AdamW, fused=True), "adamw8bit": AdamW8bit}
"""What `train.optimizer` may be."""


@dataclass(frozen=True)
class Components(Networks):
    """Everything that a run needs."""

    run: Path
    device: torch.device | str
    processes: Processes
    dataset: Dataset
    skipped: Skipped
    state: TrainState

    @property
    def global_batch(self) -> int:
        """The number of samples of a step."""
        train = self.config.train
        return train.batch_size * train.accumulate * self.processes.count

    @property
    def checkpoints(self) -> Checkpoints:
        """The run's checkpoints, of this state."""
        return Checkpoints(self.run / "checkpoints", self.state, self.config.train.keep_last)

    @property
    def fake_training(self) -> FakeTraining | None:
        """How the fake score is trained, if the method has one."""
        fake, method, state = self.config.fake, self.method, self.state.fake
        if fake is None or state is None or not isinstance(method, LearnsFake):
            return None
        train, rate = self.config.train, fake.learning_rate or 0.0
        settings = replace(
            train,
            steps=fake.warmup + train.steps * fake.updates,
            learning_rate=rate,
            warmup=0,
            decay=fake.decay,
        )
        return FakeTraining(
            method, state, settings, fake.updates, fake.warmup, self.roles.fake_learns
        )

    def check_batch(self, num_pairs: int) -> None:
        """Raise a SettingError if a step takes more samples than there are pairs."""
        config = self.config
        check_batch(config.train, config.data.path, num_pairs, self.processes.count)

    def offload(self) -> None:
        """Move VAE and text encoder from a GPU to the CPU, unless every step needs them."""
        if torch.device(self.device).type == "cuda" and not self.config.data.streaming:
            for part in self.family.vae_and_text_encoder:
                part.to("cpu")
            torch.cuda.empty_cache()

    @contextmanager
    def vae_and_text_encoder_on_device(self) -> Iterator[None]:
        """Have VAE and text encoder on the device within the block."""
        for part in self.family.vae_and_text_encoder:
            part.to(self.device)
        try:
            yield
        finally:
            self.offload()


def build(config: Config, run: Path, device: torch.device | str) -> Components:
    """Build all components of the run in folder `run`.

    Raises:
        UserError: if a setting, the model or the data cannot be used; nothing was written yet.
    """
    processes = join_processes(config.train, device)
    check_settings(config)
    check_words(config.model.base, config.train.preview_prompts)
    config = with_precision(config, device)
    family = load_family(config.model, device)
    networks = build_networks(config, family, processes.count)
    check_decoder(family)
    if processes.is_main:
        warn_of_cut(family, config.train.preview_prompts)
    if config.train.init is not None:
        start_from(config.train.init, networks)
    dataset = open_dataset(config, run, family, processes)
    max_skipped = config.data.max_skipped * len(dataset.pairs)
    components = Components(
        **vars(networks),
        run=run,
        device=device,
        processes=processes,
        dataset=dataset,
        skipped=Skipped(run / "skipped.txt", max_skipped, processes),
        state=new_state(networks, device),
    )
    components.check_batch(len(dataset.pairs))
    return components


def new_state(networks: Networks, device: torch.device | str) -> TrainState:
    """Return the state before the first step; fp16 alone scales the loss."""
    config, roles = networks.config, networks.roles

    def state(
        trained: Mapping[str, nn.Parameter], averaged: Mapping[str, Tensor], rate: float
    ) -> TrainState:
        train, kind = config.train, torch.device(device).type
        make = OPTIMIZERS[train.optimizer]
        optimizer = make(
            trained.values(), lr=rate, betas=train.betas, weight_decay=train.weight_decay
        )
        scaler = GradScaler(kind, enabled=config.model.precision == "fp16")
        return TrainState(trained, averaged, optimizer, scaler)

    averaged = roles.averaged if config.train.ema else {}
    student = state(roles.trained, averaged, config.train.learning_rate)
    if config.fake is not None:
        student.fake = state(roles.fake_trained, {}, config.fake.learning_rate or 0.0)
    return student


def with_precision(config: Config, device: torch.device | str) -> Config:
    """Replace precision "auto" by the device's, or refuse one in which it cannot train."""
    precision = precision_for(config.model.precision, device)
    return replace(config, model=replace(config.model, precision=precision))


def join_processes(train: TrainSettings, device: torch.device | str) -> Processes:
    """Join the processes that were started together.

    Raises:
        SettingError: if their number is not `train.processes`.
    """
    processes, expected = Processes.started(device), train.processes
    if expected not in (None, processes.count):
        raise SettingError(
            f"train.processes is {expected}, and {processes.count} started: start them by "
            f"torchrun --nproc-per-node {expected} -m -- fewstep distill …, or leave it out"
        )
    return processes


def open_dataset(
    config: Config,
    run: Path,
    family: ModelFamily,
    processes: Processes,
    for_latents: bool = False,
) -> Dataset:
    """Open the data, `for_latents` with them although the method needs none.

    The main process indexes shards first; the others read its index.

    Raises:
        UserError: if there are none, or they differ between the processes.
    """
    data, scale = config.data, config.teacher.guidance_scale
    with processes.main_process_first():
        dataset = Dataset(
            settings=data,
            family=family,
            resolution=data.resolution or family.default_resolution,
            root=Path(data.cache or run.parent / "cache"),
            teacher_guidance=TEACHER_GUIDANCE if scale is None else scale,
            needs_latents=for_latents or needs_latents(build_method(config.method)[1]),
        )
    if processes.count > 1:
        key = int(dataset.fingerprint.key, 16) >> 1  # 63 bits, as a tensor's integers have
        if processes.all_reduce_max(key) != -processes.all_reduce_max(-key):
            raise SettingError(
                f"data.path {data.path!r} or model.base is not the same for all processes: "
                "other files, sizes or times; put them where every node sees them"
            )
    return dataset

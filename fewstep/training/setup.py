"""From settings to the components of a run, all built at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch.amp.grad_scaler import GradScaler

from fewstep.config import (
    AdapterSettings,
    Config,
    ModelSettings,
    SettingError,
    TeacherSettings,
    TrainSettings,
)
from fewstep.data.dataset import Dataset
from fewstep.data.stream import Skipped
from fewstep.diffusion.guidance import guided
from fewstep.diffusion.losses import check_weighting
from fewstep.distributed import Processes
from fewstep.methods import Denoisers, Method
from fewstep.methods.base import Measured
from fewstep.models.adapters import Roles, full_roles, lora_roles
from fewstep.models.base import ModelFamily
from fewstep.models.checkpointing import set_checkpointing
from fewstep.models.loading import load_model, load_skeleton
from fewstep.models.precision import DTYPES, precision_for
from fewstep.student.generate import TEACHER_GUIDANCE, check_decoder
from fewstep.student.sample import check_words
from fewstep.training.checkpoint import Checkpoints, TrainState
from fewstep.training.settings import build_method, check_settings, teacher_guidance
from fewstep.types import Conditioning


@dataclass(frozen=True)
class Networks:
    """The model and its roles, and the method that trains them; `config` has no default left."""

    config: Config
    method: Method
    family: ModelFamily
    roles: Roles

    @property
    def resolution(self) -> int:
        """The side of the images, in pixels."""
        return self.config.data.resolution or self.family.default_resolution

    @property
    def guidance_scale(self) -> float:
        """The teacher's; 1 is none."""
        return self.config.teacher.guidance_scale or 1.0

    def denoisers(self, uncond: Conditioning) -> Denoisers:
        """Return the roles of a training step; `uncond` is the empty prompt's, one row."""
        roles, device = self.roles, self.family.schedule.alphas.device
        uncond = {name: row.to(device) for name, row in uncond.items()}
        return Denoisers(
            student=roles.student,
            target=roles.ema if self.config.train.target == "ema" else roles.student,
            teacher=guided(roles.teacher, uncond, self.guidance_scale),
        )

    def network_for_training(self) -> torch.nn.Module:
        """Return the student's network in training mode, checkpointed and compiled as set."""
        network, train = self.roles.network, self.config.train
        set_checkpointing(network, train.checkpointing)
        if train.compile:
            network.compile()
        return network.train()


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
        return Checkpoints(self.run / "checkpoints", self.state, self.config.train.keep_last)

    def check_batch(self, num_pairs: int) -> None:
        """Raise a SettingError if a step takes more samples than there are pairs."""
        if self.global_batch > num_pairs:
            train, path = self.config.train, self.config.data.path
            raise SettingError(
                f"a step takes {self.global_batch} samples (train.batch_size = {train.batch_size}, "
                f"train.accumulate = {train.accumulate}, {self.processes.count} processes), and "
                f"data.path {path!r} has {num_pairs} pairs: lower these, or give more pairs"
            )

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


def build_networks(config: Config, family: ModelFamily, num_processes: int = 1) -> Networks:
    """Give the family its roles, and the config every default of method and model.

    A family on the meta device has no weights: this is what a plan counts.

    Raises:
        UserError: if the method and the model do not go together, or an adapter matches nothing.
    """
    name, method = build_method(config.method)
    resolution = config.data.resolution or family.default_resolution
    family.latent_shape(resolution)
    try:
        if isinstance(method, Measured):
            check_weighting(method.weighting, family.schedule)
    except ValueError as error:
        raise SettingError(str(error)) from error
    resolved = replace(
        config,
        method={"name": name} | asdict(method),  # type: ignore[call-overload]
        teacher=TeacherSettings(teacher_guidance(config)),
        data=replace(config.data, resolution=resolution),
        train=replace(config.train, processes=num_processes),
    )
    return Networks(resolved, method, family, build_roles(family, config))


def build_roles(family: ModelFamily, config: Config) -> Roles:
    """Give the network its LoRAs, or copies to fine-tune whole."""
    adapter, seed = config.adapter, config.train.seed
    if adapter is None:
        return full_roles(family)
    preset, rank, alpha = adapter.preset, adapter.rank, lora_alpha(adapter)
    return lora_roles(family, preset, rank, alpha, dropout=adapter.dropout, seed=seed)


def lora_alpha(adapter: AdapterSettings) -> float:
    """Return alpha; where none is set it is the rank, so that the update's scale is 1."""
    return float(adapter.rank) if adapter.alpha is None else adapter.alpha


def new_state(networks: Networks, device: torch.device | str) -> TrainState:
    """Return the state before the first step; fp16 alone scales the loss."""
    config, roles = networks.config, networks.roles
    optimizer = torch.optim.AdamW(
        roles.trained.values(),
        lr=config.train.learning_rate,
        weight_decay=config.train.weight_decay,
        fused=True,
    )
    scaler = GradScaler(torch.device(device).type, enabled=config.model.precision == "fp16")
    return TrainState(roles.trained, roles.averaged, optimizer, scaler)


def with_precision(config: Config, device: torch.device | str) -> Config:
    """Replace precision "auto" by the device's, or refuse one in which it cannot train."""
    precision = precision_for(config.model.precision, device)
    return replace(config, model=replace(config.model, precision=precision))


def load_family(model: ModelSettings, device: torch.device | str) -> ModelFamily:
    """Load the base model; on the "meta" device from its configs alone, without weights."""
    options = {
        "dtype": DTYPES[model.precision],
        "revision": model.revision,
        "config": model.config,
        "allow_pickle": model.allow_pickle,
    }
    if str(device) == "meta":
        return load_skeleton(model.base, **options)
    return load_model(model.base, device=device, variant=model.variant, **options)


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


def open_dataset(config: Config, run: Path, family: ModelFamily, processes: Processes) -> Dataset:
    """Open the data. The main process indexes shards first; the others read its index.

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
        )
    if processes.count > 1:
        key = int(dataset.fingerprint.key, 16) >> 1  # 63 bits, as a tensor's integers have
        if processes.all_reduce_max(key) != -processes.all_reduce_max(-key):
            raise SettingError(
                f"data.path {data.path!r} or model.base is not the same for all processes: "
                "other files, sizes or times; put them where every node sees them"
            )
    return dataset

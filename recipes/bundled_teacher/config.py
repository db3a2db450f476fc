"""The settings of the bundled teacher's training. This file imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from fewstep.config import need
from fewstep.strict import from_tables
from fewstep.toml import apply_overrides, read_tables

SHIPPED = Path(__file__).with_name("teacher.toml")


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """How long and how fast a network is trained: warm-up, a plateau, a linear decay to zero.

    AdamW uses `learning_rate`. If `muon` is not 0, Muon trains the hidden matrices at `muon` times
    that. bf16 is used where the processor supports it natively.
    """

    table: ClassVar[str] = "plan"

    steps: int
    batch_size: int = 64
    learning_rate: float = 1e-3
    muon: float = 0.0
    warmup: int = 200
    decay: int = 1000
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    bf16: bool = True
    threads: int = 1
    save_every: int = 250
    log_every: int = 25

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "threads", "save_every", "log_every"):
            need(getattr(self, name) > 0, f"{self.table}.{name}", getattr(self, name), "1 or more")
        for name in ("muon", "warmup", "decay", "weight_decay"):
            need(getattr(self, name) >= 0, f"{self.table}.{name}", getattr(self, name), "0 or more")
        for name in ("learning_rate", "max_grad_norm"):
            need(getattr(self, name) > 0, f"{self.table}.{name}", getattr(self, name), "above 0")


@dataclass(frozen=True, kw_only=True)
class AutoencoderSettings(PlanSettings):
    """An AutoencoderKL; `kl_weight` is per latent number, the other losses are per colour value.

    Its latents are scaled to a standard deviation of `latent_std`. The smaller it is, the later in
    sampling an image is determined: these images are small and plain, and at 1 almost nothing would
    be left to determine in the last of four steps (docs/experiments.md).
    """

    table: ClassVar[str] = "autoencoder"

    channels: tuple[int, ...] = (16, 32, 64)
    latent_channels: int = 4
    num_layers: int = 1
    groups: int = 2
    kl_weight: float = 2e-5
    hue_weight: float = 0.5
    edge_weight: float = 2.0
    latent_std: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        need(all(c % self.groups == 0 for c in self.channels), "autoencoder.channels",
             self.channels, f"multiples of the {self.groups} groups")  # fmt: skip
        need(self.latent_std > 0, "autoencoder.latent_std", self.latent_std, "above 0")


@dataclass(frozen=True)
class PoolSettings:
    """How many captioned scenes the denoiser is trained on, encoded once in shards."""

    size: int = 64_000
    shard: int = 4_000
    captions: int = 6
    workers: int = 1

    def __post_init__(self) -> None:
        for name in ("size", "shard", "captions", "workers"):
            need(getattr(self, name) > 0, f"pool.{name}", getattr(self, name), "1 or more")
        need(self.size % self.shard == 0, "pool.size", self.size, f"a multiple of {self.shard}")


@dataclass(frozen=True, kw_only=True)
class TextSettings(PlanSettings):
    """A CLIPTextModel for `length` tokens; the last ones, after any caption, are query tokens."""

    table: ClassVar[str] = "text"

    width: int = 96
    layers: int = 4
    heads: int = 3
    length: int = 27
    caption_dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        need(0 <= self.caption_dropout < 1, "text.caption_dropout", self.caption_dropout,
             "at least 0 and below 1")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DenoiserSettings(PlanSettings):
    """A UNet2DConditionModel with an exponential moving average (EMA) of its weights.

    `peers` is how many other scenes with the same caption are candidates in the target of each
    sample, `looking` the weight of the loss on cross-attention.
    """

    table: ClassVar[str] = "denoiser"

    channels: tuple[int, ...] = (32, 64, 128)
    attention: tuple[bool, ...] = (False, True, True)
    num_layers: int = 1
    heads: tuple[int, ...] = (2, 2, 4)
    groups: int = 16
    caption_dropout: float = 0.1
    peers: int = 16
    looking: float = 0.003
    ema: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("heads", "attention"):
            need(len(getattr(self, name)) == len(self.channels), f"denoiser.{name}",
                 getattr(self, name), "one value for each of denoiser.channels")  # fmt: skip
        need(0 <= self.caption_dropout < 1, "denoiser.caption_dropout", self.caption_dropout,
             "at least 0 and below 1")  # fmt: skip
        need(self.peers >= 0, "denoiser.peers", self.peers, "0 or more")
        need(self.looking >= 0, "denoiser.looking", self.looking, "0 or more")
        need(0 <= self.ema < 1, "denoiser.ema", self.ema, "at least 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class FeatureSettings(PlanSettings):
    """A small convolutional network that maps images to `width` features."""

    table: ClassVar[str] = "features"

    channels: tuple[int, ...] = (24, 48, 96, 160)
    width: int = 64


@dataclass(frozen=True)
class TeacherConfig:
    """All settings of the bundled teacher and its feature network.

    `start` is the folder of a teacher to continue from, or "shipped": its tokenizer, autoencoder
    and text encoder are kept, and its denoiser provides the initial weights, widened if
    `denoiser.channels` are more. If empty, everything is trained from scratch.
    """

    autoencoder: AutoencoderSettings
    text: TextSettings
    denoiser: DenoiserSettings
    features: FeatureSettings
    pool: PoolSettings = field(default_factory=PoolSettings)
    seed: int = 0
    start: str = ""


def load_teacher_config(
    path: Path | str | None = None, overrides: Sequence[str] = ()
) -> TeacherConfig:
    """Read a teacher's TOML file, or the shipped one, with overrides "table.key=value".

    Raises:
        SettingError: if the file cannot be read, or a setting is unknown or cannot be used.
    """
    tables = apply_overrides(read_tables(SHIPPED if path is None else path), overrides)
    return from_tables(TeacherConfig, tables)

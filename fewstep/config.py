"""Settings: frozen dataclasses read from TOML, strictly. This file imports no torch."""

import dataclasses
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Lt

from fewstep.errors import SettingError
from fewstep.strict import from_tables
from fewstep.toml import apply_overrides, read_tables, with_paths, written

PATHS = (("model", "base"), ("model", "config"), ("data", "path"), ("data", "images"),
         ("data", "cache"), ("train", "init"))  # fmt: skip
"""The settings that may be paths."""

Precision = typing.Literal["auto", "fp32", "mixed", "bf16", "fp16"]
Optimizer = typing.Literal["adamw", "adamw8bit"]
Quantize = typing.Literal["none", "int8", "nf4"]
LongPrompts = typing.Literal["cut", "chunks"]
Tracker = typing.Literal["wandb", "trackio"]
Count = Annotated[int, Ge(1), Lt(10**9)]
Natural = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
Fraction = Annotated[float, Ge(0), Lt(1)]
TEACHER_GUIDANCE = 4.0  # where none is set
HUB_ID = r"[\w-][\w.-]*/[\w-][\w.-]*"


@dataclass(frozen=True)
class ModelSettings:
    """Which model is distilled: a Hub id, a diffusers folder, a checkpoint file, or "bundled".

    `config` says how a checkpoint file is built where its weights do not: a name, or a diffusers
    folder. `hub_id` is where others find a `base` of this machine. "auto" is fp32 on a CPU, bf16 on
    GPUs that have it, else fp16; "mixed" is fp32 with bf16 where there is no gradient, on a CPU.
    `quantize` keeps frozen weights in few bits in training, not in exports. Prompts that are longer
    than the text encoder reads are cut, or read in chunks.
    """

    base: str = "bundled"
    hub_id: str | None = None
    revision: str | None = None
    variant: str | None = None
    config: str | None = None
    allow_pickle: bool = False
    precision: Precision = "auto"
    quantize: Quantize = "none"
    long_prompts: LongPrompts = "cut"

    def __post_init__(self) -> None:
        need(bool(self.base), "model.base", self.base, "a folder, a Hub id or 'bundled'")
        is_id = self.hub_id is None or re.fullmatch(HUB_ID, self.hub_id)
        need(bool(is_id), "model.hub_id", self.hub_id, "the model's id on the Hub, owner/name")


@dataclass(frozen=True)
class TeacherSettings:
    """Guidance in diffusers' form: 1 is none; where not given it is the method's own."""

    guidance_scale: float | None = None

    def __post_init__(self) -> None:
        scale = self.guidance_scale
        need(scale is None or 1 <= scale < 1e3, "teacher.guidance_scale", scale,
             "1 (no guidance) or more")  # fmt: skip


@dataclass(frozen=True)
class AdapterSettings:
    """A LoRA of `rank`; its update is scaled by alpha / rank."""

    preset: typing.Literal["attention", "transformer", "all"] = "all"
    rank: Count = 32
    alpha: Positive | None = None
    dropout: Fraction = 0.0


@dataclass(frozen=True)
class FakeSettings:
    """The fake score of distribution matching: a second LoRA, of the student's rank unless set.

    It is updated `updates` times after each update of the student, on what that generated, and
    `warmup` times before the first. Its `learning_rate` is the student's highest unless set; with
    `decay = "cosine"` it falls to zero, as the student's does.
    """

    rank: Count | None = None
    updates: Count = 2
    warmup: Natural = 200
    learning_rate: Annotated[float, Gt(0), Lt(1)] | None = None
    decay: typing.Literal["constant", "cosine"] = "constant"


@dataclass(frozen=True)
class StopSettings:
    """When the student's images stop a run before its last step.

    Every `every` steps the averaged student makes `num_images` images of each of the first
    `num_prompts` captions, from the noise of the teacher's. The run stops where their diversity is
    below `min_diversity` times the teacher's, or their contrast above `max_contrast` times it; its
    student is then that of the last check which passed. The bounds are for a collapse: while the
    learning rate is high, a run that ends at 0.93 of the teacher's diversity passes through 0.87.
    """

    every: Count = 50
    num_prompts: Count = 16
    num_images: Annotated[int, Ge(2), Lt(1000)] = 4
    min_diversity: Fraction = 0.8
    max_contrast: Positive = 1.2


@dataclass(frozen=True)
class DecoderSettings:
    """How `fewstep distill-decoder` trains a small decoder on cached latents.

    `channels` are half of those of the VAE's last layers, and no less than 16, unless set.
    """

    channels: Annotated[int, Ge(1), Lt(1024)] | None = None
    steps: Count = 2000
    batch_size: Count = 8
    learning_rate: Annotated[float, Gt(0), Lt(1)] = 5e-3


@dataclass(frozen=True)
class DataSettings:
    """Captioned images, or prompts alone; what `path` is, is found by looking at it.

    Without `resolution` images are as large as those that the model was trained on. Where
    `streaming` is set they are encoded at each step and not once before, and near one another they
    are read in the order in which they lie: `shuffle_buffer` pairs are shuffled at a time. Files
    whose names match one of the patterns `exclude` are not looked at.
    """

    path: str = "bundled"
    images: str | None = None
    exclude: tuple[str, ...] = ()
    split: str = "train"
    image_column: str | None = None
    caption_column: str | None = None
    captions: typing.Literal["one", "all"] = "one"
    num_pairs: Count | None = None
    resolution: Count | None = None
    crop: typing.Literal["centre", "random"] = "centre"
    flip: bool = False
    buckets: bool = False
    max_upscale: Annotated[float, Ge(1), Lt(100)] = 2.0
    max_skipped: Fraction = 0.05
    seed: int = 0
    caption_dropout: Fraction = 0.0
    cache: str | None = None
    streaming: bool = False
    shuffle_buffer: Count = 65536
    workers: Natural = 0
    teacher_steps: Count = 50

    def __post_init__(self) -> None:
        need(bool(self.path), "data.path", self.path, "a folder, a file, a Hub id or 'bundled'")
        need(not (self.buckets and self.streaming), "data.buckets", self.buckets,
             "false with data.streaming: buckets need every image's size first")  # fmt: skip


@dataclass(frozen=True)
class TrainSettings:
    """How the student is trained; a step takes `batch_size` * `accumulate` * `processes` samples.

    `processes` is how many train together; nothing is as many as were started. `init` is a finished
    student, an artefact or its run, to start from. `adamw8bit` keeps its moments in 8 bits; `ema` 0
    keeps no average: the last step's weights are what is saved.
    """

    steps: Count = 250
    batch_size: Count = 32
    accumulate: Count = 1
    processes: Count | None = None
    learning_rate: Annotated[float, Gt(0), Lt(1)] = 3e-4
    warmup: Natural = 20
    decay: typing.Literal["constant", "cosine"] = "cosine"
    optimizer: Optimizer = "adamw"
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: Annotated[float, Ge(0)] = 0.0
    max_grad_norm: Positive = 1.0
    ema: Fraction = 0.95
    ema_precision: typing.Literal["fp32", "bf16"] = "fp32"
    target: typing.Literal["student", "ema"] = "student"
    checkpointing: typing.Literal["none", "selective", "full"] = "none"
    compile: bool = False
    init: str | None = None
    seed: int = 0
    save_every: Count = 50
    keep_last: Count = 2
    preview_every: Natural = 100
    preview_prompts: tuple[str, ...] = ()
    trackers: tuple[Tracker, ...] = ()


@dataclass(frozen=True)
class Config:
    """Everything that decides a run. Without `adapter` the whole network is fine-tuned.

    `method` is checked against the method's own fields when the run is built: they are the
    fields of a dataclass in `fewstep.methods`, which needs torch.
    """

    method: Mapping[str, Any]
    model: ModelSettings = field(default_factory=ModelSettings)
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    adapter: AdapterSettings | None = None
    fake: FakeSettings | None = None
    stop: StopSettings | None = None
    decoder: DecoderSettings | None = None
    data: DataSettings = field(default_factory=DataSettings)
    train: TrainSettings = field(default_factory=TrainSettings)


def need(holds: bool, setting: str, value: object, expected: str) -> None:
    """Raise a SettingError unless it holds: the setting, its value and what it has to be."""
    if not holds:
        raise SettingError(f"{setting} is {value!r}; it has to be {expected}")


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file, or one that ships by its name, and apply overrides "table.key=value".

    Raises:
        SettingError: if the file cannot be read, or a setting is unknown or of the wrong type.
    """
    tables = apply_overrides(read_tables(shipped(Path(path))), overrides)
    return from_tables(Config, with_paths(tables, PATHS))


def shipped(path: Path) -> Path:
    """Return the config that ships under this name, such as "sd15-t4", or else the path itself."""
    if path.exists() or path.suffix or len(path.parts) != 1:
        return path
    name = f"{path.name.removeprefix('bundled-')}.toml"
    found = (Path(__file__).parent / room / "configs" / name for room in ("training", "world"))
    return next(filter(Path.is_file, found), path)


def to_toml(config: Config) -> str:
    """Write every resolved value as TOML that `load_config` reads back to an equal config."""
    return written(dataclasses.asdict(config))

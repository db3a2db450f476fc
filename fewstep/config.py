"""Settings: frozen dataclasses read from TOML, strictly. This file imports no torch."""

import dataclasses
import json
import os
import re
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Lt

from fewstep.errors import DataError, SettingError
from fewstep.strict import from_tables
from fewstep.text import decoded

PATHS = (("model", "base"), ("model", "config"), ("data", "path"), ("data", "images"),
         ("data", "cache"), ("train", "init"))  # fmt: skip
"""The settings that may be paths."""

BACKSLASHES = (": in double quotes TOML reads a backslash as the beginning of a special character; "
               "write a path in single quotes, or with / in place of \\")  # fmt: skip

Precision = typing.Literal["auto", "fp32", "bf16", "fp16"]
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
    GPUs that have it, else fp16. `quantize` keeps frozen weights in few bits in training, not in
    exports. Prompts that are longer than the text encoder reads are cut, or read in chunks.
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

    It is updated `updates` times before each update of the student, and `warmup` times before the
    first; its constant `learning_rate` is the student's highest unless set.
    """

    rank: Count | None = None
    updates: Count = 2
    warmup: Natural = 200
    learning_rate: Annotated[float, Gt(0), Lt(1)] | None = None


@dataclass(frozen=True)
class StopSettings:
    """When the student's images stop a run before its last step.

    Every `every` steps the averaged student makes `num_images` images of each of the first
    `num_prompts` captions, from the noise of the teacher's. The run stops where their diversity is
    below `min_diversity` times the teacher's, or their contrast above `max_contrast` times it; its
    student is then that of the last check which passed.
    """

    every: Count = 50
    num_prompts: Count = 16
    num_images: Annotated[int, Ge(2), Lt(1000)] = 4
    min_diversity: Fraction = 0.9
    max_contrast: Positive = 1.1


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
    data: DataSettings = field(default_factory=DataSettings)
    train: TrainSettings = field(default_factory=TrainSettings)


def need(holds: bool, setting: str, value: object, way_out: str) -> None:
    """Raise a SettingError that names the setting, the value and the way out unless it holds."""
    if not holds:
        raise SettingError(f"{setting} is {value!r}; it has to be {way_out}")


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file and apply overrides of the form "table.key=value".

    Raises:
        SettingError: if the file cannot be read, or a setting is unknown or of the wrong type.
    """
    try:
        text = decoded(Path(path).read_bytes(), str(path))
        tables = parsed(text, str(path))
    except OSError as error:
        raise SettingError(f"cannot read {path}: {error.strerror}") from error
    except DataError as error:
        raise SettingError(str(error)) from error
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"{path} is not TOML: {error}{_backslash_hint(text, error)}") from error
    return from_tables(Config, with_paths(apply_overrides(tables, overrides)))


def parsed(text: str, name: str) -> dict[str, Any]:
    """Return TOML's tables; a TOMLDecodeError is of its grammar alone.

    Raises:
        SettingError: if it is nested too deep, or holds a number of thousands of digits.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        why = "nested too deep" if isinstance(error, RecursionError) else "a number of that length"
        raise SettingError(f"{name} cannot be read: {why}; is it the right file?") from error


def with_paths(tables: dict[str, Any]) -> dict[str, Any]:
    """Return the tables with `~` in paths replaced by the user's folder.

    Raises:
        SettingError: if a path holds a control character, as a backslash in double quotes makes.
    """
    for table, key in PATHS:
        values = tables.get(table)
        if not isinstance(values, dict) or not isinstance(path := values.get(key), str):
            continue
        if re.search(r"[\x00-\x1f\x7f]", path):
            what = "with control characters in it"
            raise SettingError(f"{table}.{key} is {path!r}, {what}{BACKSLASHES}")
        if path.startswith("~"):
            values[key] = os.path.expanduser(path)
    return tables


def _backslash_hint(text: str, error: tomllib.TOMLDecodeError) -> str:
    """Return what to write in the line of an error where it has backslashes in double quotes."""
    place = re.search(r"at line (\d+)", str(error))
    line = text.splitlines()[int(place[1]) - 1] if place else ""
    return BACKSLASHES if re.search(r'"[^"]*\\', line) else ""


def apply_overrides(tables: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return the tables with "table.key=value" applied; a value is TOML, or else a bare string.

    >>> apply_overrides({"train": {"steps": 5}}, ["train.steps=9", "method.name=cd"])
    {'train': {'steps': 9}, 'method': {'name': 'cd'}}
    """
    tables = {name: dict(t) if isinstance(t, Mapping) else t for name, t in tables.items()}
    for override in overrides:
        path, equals, text = override.partition("=")
        table, _, key = path.strip().rpartition(".")
        if not (equals and key) or "." in table or _is_half(override):
            raise SettingError(f"cannot read --set {override!r}; write table.key=value")
        target = tables.setdefault(table, {}) if table else tables
        if not isinstance(target, dict):
            raise SettingError(f"{table} is {target!r}; it has to be a table")
        target[key] = _toml_value(text.strip())
    return tables


def _is_half(text: str) -> bool:
    """Return whether text holds half a character, as bytes that are not UTF-8 make."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def to_toml(config: Config) -> str:
    """Write every resolved value as TOML that `load_config` reads back to an equal config."""
    lines = []
    for table, values in dataclasses.asdict(config).items():
        if values is None:
            continue
        lines += [f"[{table}]"]
        lines += [f"{key} = {_as_toml(v)}" for key, v in values.items() if v is not None]
        lines += [""]
    return "\n".join(lines)


def _as_toml(value: Any) -> str:
    """Write a value; TOML reads what JSON writes, but for one character."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")


def _toml_value(text: str) -> Any:
    try:
        tables = parsed(f"value = {text}", f"--set …={text[:20]}")
    except tomllib.TOMLDecodeError:
        return text
    return tables["value"] if len(tables) == 1 else text  # no second setting in a second line

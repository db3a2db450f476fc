"""Settings: frozen dataclasses read from TOML, strictly. This file imports no torch."""

import dataclasses
import difflib
import json
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fewstep.errors import UserError

Precision = typing.Literal["auto", "fp32", "bf16", "fp16"]
Tracker = typing.Literal["wandb", "trackio"]
Settings = TypeVar("Settings")


RENAMED = {"data.pictures": "images"}
"""Settings that had another name in the first release, which is read as well."""


class SettingError(UserError):
    """A setting that cannot be used; the message names it, its value and the way out."""


@dataclass(frozen=True)
class ModelSettings:
    """Which model is distilled: a Hub id, a diffusers folder, a checkpoint file, or "bundled".

    `config` says how a checkpoint file is built where its weights do not: a name, or a diffusers
    folder. `precision` "auto" is fp32 on a CPU, bf16 on GPUs that have it and fp16 on others.
    """

    base: str = "bundled"
    revision: str | None = None
    variant: str | None = None
    config: str | None = None
    allow_pickle: bool = False
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        need(bool(self.base), "model.base", self.base, "a folder, a Hub id or 'bundled'")


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
    rank: int = 32
    alpha: float | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        need(self.rank > 0, "adapter.rank", self.rank, "1 or more")
        need(self.alpha is None or self.alpha > 0, "adapter.alpha", self.alpha, "above 0")
        need(0 <= self.dropout < 1, "adapter.dropout", self.dropout, "at least 0 and below 1")


@dataclass(frozen=True)
class DataSettings:
    """Captioned images, or prompts alone; what `path` is, is found by looking at it.

    Without `resolution` images are as large as those that the model was trained on. Where
    `streaming` is set they are encoded at each step and not once before, and near one another they
    are read in the order in which they lie: `shuffle_buffer` pairs are shuffled at a time.
    """

    path: str = "bundled"
    images: str | None = None
    split: str = "train"
    image_column: str | None = None
    caption_column: str | None = None
    captions: typing.Literal["one", "all"] = "one"
    num_pairs: int | None = None
    resolution: int | None = None
    crop: typing.Literal["centre", "random"] = "centre"
    flip: bool = False
    buckets: bool = False
    max_upscale: float = 2.0
    max_skipped: float = 0.05
    seed: int = 0
    caption_dropout: float = 0.0
    cache: str | None = None
    streaming: bool = False
    shuffle_buffer: int = 65536
    workers: int = 0
    teacher_steps: int = 50

    def __post_init__(self) -> None:
        need(bool(self.path), "data.path", self.path, "a folder, a file, a Hub id or 'bundled'")
        need(self.num_pairs is None or self.num_pairs > 0, "data.num_pairs", self.num_pairs,
             "1 or more, or nothing for all")  # fmt: skip
        need(self.resolution is None or self.resolution > 0, "data.resolution", self.resolution,
             "a multiple of 8, or nothing for the model's own")  # fmt: skip
        need(0 <= self.caption_dropout < 1, "data.caption_dropout", self.caption_dropout,
             "at least 0 and below 1")  # fmt: skip
        need(1 <= self.max_upscale < 100, "data.max_upscale", self.max_upscale,
             "1 (never enlarge an image) or more")  # fmt: skip
        need(0 <= self.max_skipped < 1, "data.max_skipped", self.max_skipped,
             "at least 0 and below 1, a share of the pairs")  # fmt: skip
        for name in ("shuffle_buffer", "teacher_steps"):
            need(getattr(self, name) > 0, f"data.{name}", getattr(self, name), "1 or more")
        need(self.workers >= 0, "data.workers", self.workers, "0 or more processes")
        need(not (self.buckets and self.streaming), "data.buckets", self.buckets,
             "false with data.streaming: buckets need every image's size first")  # fmt: skip


@dataclass(frozen=True)
class TrainSettings:
    """How the student is trained; a step takes `batch_size` * `accumulate` * `processes` samples.

    `processes` is how many train together; nothing is as many as were started.
    """

    steps: int = 250
    batch_size: int = 32
    accumulate: int = 1
    processes: int | None = None
    learning_rate: float = 3e-4
    warmup: int = 20
    decay: typing.Literal["constant", "cosine"] = "cosine"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    ema: float = 0.95
    target: typing.Literal["student", "ema"] = "student"
    checkpointing: typing.Literal["none", "selective", "full"] = "none"
    compile: bool = False
    seed: int = 0
    save_every: int = 50
    keep_last: int = 2
    preview_every: int = 100
    preview_prompts: tuple[str, ...] = ()
    trackers: tuple[Tracker, ...] = ()

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "save_every", "keep_last"):
            need(getattr(self, name) > 0, f"train.{name}", getattr(self, name), "1 or more")
        for name in ("warmup", "weight_decay", "preview_every"):
            need(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "0 or more")
        need(0 < self.learning_rate < 1, "train.learning_rate", self.learning_rate,
             "above 0 and below 1")  # fmt: skip
        need(self.max_grad_norm > 0, "train.max_grad_norm", self.max_grad_norm, "above 0")
        need(0 <= self.ema < 1, "train.ema", self.ema, "at least 0 and below 1")


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
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} is not TOML: {error}") from error
    return from_tables(Config, apply_overrides(tables, overrides))


def apply_overrides(tables: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return the tables with "table.key=value" applied; a value is TOML, or else a bare string.

    >>> apply_overrides({"train": {"steps": 5}}, ["train.steps=9", "method.name=cd"])
    {'train': {'steps': 9}, 'method': {'name': 'cd'}}
    """
    tables = {name: dict(t) if isinstance(t, Mapping) else t for name, t in tables.items()}
    for override in overrides:
        path, equals, text = override.partition("=")
        table, _, key = path.strip().rpartition(".")
        if not (equals and key):
            raise SettingError(f"cannot read --set {override!r}; write table.key=value")
        target = tables.setdefault(table, {}) if table else tables
        if not isinstance(target, dict):
            raise SettingError(f"{table} is {target!r}; it has to be a table")
        target[key] = _toml_value(text.strip())
    return tables


def from_tables(kind: type[Settings], values: object, where: str = "") -> Settings:
    """Build a settings dataclass from nested mappings; unknown keys and wrong types are errors.

    Raises:
        SettingError: naming the setting, with the nearest known name where there is one.
    """
    if not isinstance(values, Mapping):
        raise SettingError(f"{where.rstrip('.')} is {values!r}; it has to be a table")
    values = {RENAMED.get(f"{where}{key}", key): value for key, value in values.items()}
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise SettingError(f"unknown setting {where}{key}; {hint}")
    for name, f in known.items():
        required = f.default is f.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise SettingError(f"the setting {where}{name} is missing")
    return kind(**{k: _convert(hints[k], v, f"{where}{k}") for k, v in values.items()})


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
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Check a value against its field's type, turning TOML's types into Python's."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [option for option in options if option is not type(None)]
        return None if value is None else _convert(inner[0], value, where)
    if dataclasses.is_dataclass(hint):
        return from_tables(typing.cast(type, hint), value, f"{where}.")
    if origin is typing.Literal:
        if value not in options:
            raise SettingError(f"{where} is {value!r}; it has to be {_alternatives(options)}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise SettingError(f"{where} is {value!r}; it has to be a list")
        return tuple(_convert(options[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if hint is float and type(value) is int:
        return float(value)
    if hint is float and type(value) is float and not math.isfinite(value):
        raise SettingError(f"{where} is {value}; it has to be a finite number")
    if origin is Mapping and not isinstance(value, Mapping):
        raise SettingError(f"{where} is {value!r}; it has to be a table, [{where}]")
    if origin is not None or hint is Any:
        return value
    if type(value) is not hint:
        raise SettingError(
            f"{where} is {value!r}, a {type(value).__name__}; it has to be a {hint.__name__}"
        )
    return value


def _alternatives(options: Sequence[object]) -> str:
    *most, last = map(repr, options)
    return f"{', '.join(most)} or {last}" if most else last

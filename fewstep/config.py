"""Settings: frozen dataclasses read from TOML, strictly. This file imports no torch."""

import dataclasses
import difflib
import json
import math
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from annotated_types import Ge, Gt, Lt

from fewstep.errors import UserError

Precision = typing.Literal["auto", "fp32", "bf16", "fp16"]
Tracker = typing.Literal["wandb", "trackio"]
Count = Annotated[int, Ge(1)]
Natural = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
Fraction = Annotated[float, Ge(0), Lt(1)]
Settings = TypeVar("Settings")

RENAMED = {"data.pictures": "images"}
"""Settings that had another name in the first release, which is read as well."""


class SettingError(UserError):
    """A setting that cannot be used; the message names it, its value and the fix."""


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
    rank: Count = 32
    alpha: Positive | None = None
    dropout: Fraction = 0.0


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

    `processes` is how many train together; nothing is as many as were started.
    """

    steps: Count = 250
    batch_size: Count = 32
    accumulate: Count = 1
    processes: Count | None = None
    learning_rate: Annotated[float, Gt(0), Lt(1)] = 3e-4
    warmup: Natural = 20
    decay: typing.Literal["constant", "cosine"] = "cosine"
    weight_decay: Annotated[float, Ge(0)] = 0.0
    max_grad_norm: Positive = 1.0
    ema: Fraction = 0.95
    target: typing.Literal["student", "ema"] = "student"
    checkpointing: typing.Literal["none", "selective", "full"] = "none"
    compile: bool = False
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


def from_tables(
    kind: type[Settings],
    values: object,
    where: str = "",
    *,
    what: str = "setting",
    error: type[UserError] = SettingError,
) -> Settings:
    """Build a dataclass from nested mappings; unknown keys and wrong types are errors.

    Types are those of JSON: an int serves for a float, a list for a tuple, and nothing else
    is converted. `where` comes before each name, and `what` is what messages call an entry.

    Raises:
        error: naming the entry, with the nearest known name where there is one.
    """
    from pydantic import TypeAdapter, ValidationError

    values = renamed(values, where)
    try:
        check_keys(kind, values, where, what, error)
        text = json.dumps(values, default=str)  # the types of JSON, in which a table is no class
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as refused:
        first = refused.errors()[0]
        cause = first.get("ctx", {}).get("error")  # of a check of the dataclass itself
        if isinstance(cause, UserError):
            raise cause from None
        raise error(explained(first, where, what)) from None


def renamed(values: object, where: str) -> object:
    """Return the values with the names of the first release replaced, in inner tables too."""
    if not isinstance(values, Mapping):
        return values
    return {
        RENAMED.get(f"{where}{key}", key): renamed(value, f"{where}{key}.")
        for key, value in values.items()
    }


def check_keys(kind: Any, value: object, where: str, what: str, error: type[UserError]) -> None:
    """Refuse keys that are no field of a dataclass, in inner tables and lists too."""
    options = typing.get_args(kind)
    if isinstance(value, float) and not math.isfinite(value):
        raise error(f"{where.rstrip('.')} is {value}; it has to be a finite number")
    if isinstance(value, Mapping) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        known = [entry.name for entry in dataclasses.fields(kind)]
        for key, inner in value.items():
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
                raise error(f"unknown {what} {where}{key}; {hint}")
            check_keys(hints[key], inner, f"{where}{key}.", what, error)
    elif isinstance(value, Mapping) and typing.get_origin(kind) is Mapping:
        for key, inner in value.items():
            check_keys(options[-1], inner, f"{where}{key}.", what, error)
    elif isinstance(value, list | tuple) and typing.get_origin(kind) is tuple:
        for i, inner in enumerate(value):
            check_keys(options[0], inner, f"{where.rstrip('.')}[{i}].", what, error)
    else:  # of a union the one that is a table
        for option in options:
            check_keys(option, value, where, what, error)


BOUNDS = {"ge": "{} or more", "gt": "above {}", "le": "{} or less", "lt": "below {}"}


def explained(refusal: Mapping[str, Any], where: str, what: str) -> str:
    """Return one of pydantic's errors in our words: the entry, its value and what it has to be."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in refusal["loc"])
    name, value = f"{where}{path.removeprefix('.')}".rstrip("."), refusal["input"]
    match refusal["type"].partition("_")[0]:
        case "missing":
            return f"the {what} {name} is missing"
        case "dataclass" | "dict" | "mapping":
            return f"{name} is {value!r}; it has to be a table, [{name}]"
        case "literal":
            return f"{name} is {value!r}; it has to be {refusal['ctx']['expected']}"
        case "value":
            return f"{name} is {refusal['ctx']['error']}"
        case "tuple" | "list":
            return f"{name} is {value!r}; it has to be a list"
        case "greater" | "less":
            ((bound, number),) = refusal["ctx"].items()
            return f"{name} is {value!r}; it has to be {BOUNDS[bound].format(number)}"
        case kind:
            wanted = {"string": "str"}.get(kind, kind)
            return f"{name} is {value!r}, a {type(value).__name__}; it has to be a {wanted}"


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

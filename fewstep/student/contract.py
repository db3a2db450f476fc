"""What an artefact promises: the grid, the guidance and the schedule that its student was made for.

The sampler takes its timesteps from here and never from the user's memory.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from fewstep.diffusion.guidance import check_guidance
from fewstep.diffusion.prediction import output_reader
from fewstep.diffusion.schedule import NoiseSchedule
from fewstep.errors import UserError
from fewstep.methods import METHODS, Method
from fewstep.methods.base import known_num_steps, sampling_timesteps

FORMAT_VERSION = 1
CONTRACT_FILE = "fewstep.json"
LORA_FILE = "pytorch_lora_weights.safetensors"
FULL_FILE = "unet/diffusion_pytorch_model.safetensors"
SCHEDULER_FILE = "scheduler/scheduler_config.json"


@dataclass(frozen=True)
class Grid:
    """Where the solver stood, where the segments end and where sampling may start."""

    num_train_timesteps: int
    knots: tuple[int, ...]
    boundaries: tuple[int, ...]
    sampling_timesteps: Mapping[str, tuple[int, ...]]
    sampler: str


@dataclass(frozen=True)
class Schedule:
    """The noise levels: diffusers' parameters, and the sha256 of the resulting table."""

    config: Mapping[str, Any]
    prediction_type: str
    sha256: str


@dataclass(frozen=True)
class Contract:
    """The contents of `fewstep.json`; layout and meaning are in docs/contracts.md."""

    format_version: int
    method: Mapping[str, Any]
    grid: Grid
    schedule: Schedule
    guidance_scale: float
    adapter: Mapping[str, Any] = field(default_factory=dict)
    base: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        name: str,
        method: Method,
        guidance_scale: float,
        scheduler_config: Mapping[str, Any],
        **more: Mapping[str, Any],
    ) -> "Contract":
        """Write down what a student trained with `method` promises.

        Raises:
            ValueError: if it could not be kept: of a guidance_scale below 1, or of a schedule or a
                prediction_type that nothing here can read.
        """
        check_guidance(guidance_scale)
        schedule = NoiseSchedule.from_config(scheduler_config)
        prediction_type = scheduler_config.get("prediction_type", "epsilon")
        output_reader(prediction_type, schedule)
        grid = method.grid(schedule.num_train_timesteps)
        settings = asdict(method)  # type: ignore[call-overload]
        return cls(
            format_version=FORMAT_VERSION,
            method={"name": name, **settings},
            grid=Grid(
                num_train_timesteps=grid.num_train_timesteps,
                knots=grid.timesteps,
                boundaries=grid.boundaries,
                sampling_timesteps={
                    str(n): sampling_timesteps(method, n, grid.num_train_timesteps)
                    for n in known_num_steps(method)
                },
                sampler=method.sampler,
            ),
            schedule=Schedule(
                config=dict(scheduler_config),
                prediction_type=prediction_type,
                sha256=schedule.digest,
            ),
            guidance_scale=guidance_scale,
            **more,
        )

    @property
    def default_num_steps(self) -> int:
        """The number of segments, or 4 (or the most below it) where any number will do."""
        if len(self.grid.boundaries) > 1:
            return len(self.grid.boundaries)
        return max(int(n) for n in self.grid.sampling_timesteps if int(n) <= 4)

    def timesteps(self, num_steps: int | None = None) -> tuple[int, ...]:
        """Return where the student's calls start, noisiest first.

        Raises:
            UserError: if the student does not know this number of steps; the message names those
                that it knows.
        """
        wanted = str(self.default_num_steps if num_steps is None else num_steps)
        known = self.grid.sampling_timesteps
        if wanted not in known:
            reason = (
                f"it was trained on {len(self.grid.boundaries)} segments"
                if len(self.grid.boundaries) > 1
                else f"its calls start on the {len(self.grid.knots) - 1} timesteps of its solver"
            )
            raise UserError(
                f"this {self.method['name']} student is sampled in "
                f"{', '.join(sorted(known, key=int))} steps, not {wanted}: {reason}"
            )
        return tuple(known[wanted])

    @property
    def spacing(self) -> str:
        """How the timesteps lie; contracts of before there was a choice do not say it."""
        return self.method.get("spacing", "uniform")

    def noise_schedule(self) -> NoiseSchedule:
        return NoiseSchedule.from_config(self.schedule.config)

    @property
    def takes_guidance(self) -> bool:
        """Whether guidance and negative prompts may be used in sampling.

        A student learns what they need if none was distilled into it and captions were dropped.
        """
        return self.guidance_scale == 1 and self.data.get("caption_dropout", 0) > 0

    def to_json(self) -> str:
        entries = asdict(self)
        return json.dumps(entries | {"seal": _seal(entries)}, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str | Path = "fewstep.json") -> "Contract":
        """Read a contract and check that it keeps its own word.

        Raises:
            UserError: if it is not JSON, of another version, lacks or adds an entry, if its grid
                or schedule do not follow from its method and parameters, if `of` refuses those, or
                if anything was changed since it was written.
        """
        try:
            entries = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{source} is not JSON ({error}); export the run again") from error
        version = entries.get("format_version") if isinstance(entries, dict) else None
        if version != FORMAT_VERSION:
            raise UserError(
                f"{source} has format_version {version!r}; this fewstep reads {FORMAT_VERSION}: "
                "update fewstep, or export the run again"
            )
        seal = entries.pop("seal", None)
        try:
            contract = cls(
                **entries
                | {
                    "grid": _grid(entries["grid"]),
                    "schedule": Schedule(**entries["schedule"]),
                }
            )
            contract._check(source)
        except (KeyError, TypeError, AttributeError, ArithmeticError) as error:
            raise UserError(f"{source} is not a whole contract ({error!r})") from error
        if seal != _seal(entries):
            raise UserError(
                f"{source} was changed after it was written: its seal does not fit; get the "
                "artefact again, or run its fewstep distill again"
            )
        return contract

    def _check(self, source: str | Path) -> None:
        """Build the contract again from its own parameters and compare."""
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.default_factory is dict and not isinstance(value, dict):
                raise TypeError(f"{entry.name} is {value!r}, and has to be an object")
        settings = {**self.method}
        name = settings.pop("name", None)
        if name not in METHODS:
            raise UserError(f"{source}: unknown method {name!r}; known: {', '.join(METHODS)}")
        try:
            method = METHODS[name](**settings)
            again = type(self).of(name, method, self.guidance_scale, self.schedule.config)
        except ValueError as error:
            raise UserError(f"{source}: {error}") from error
        for part in ("grid", "schedule"):
            mine, theirs = getattr(again, part), getattr(self, part)
            for entry in fields(mine):
                if getattr(mine, entry.name) != getattr(theirs, entry.name):
                    raise UserError(
                        f"{source}: {part}.{entry.name} does not follow from the method and the "
                        "schedule's parameters; the file was edited or damaged: export the run "
                        "again"
                    )


def _seal(entries: Mapping[str, Any]) -> str:
    """Return the sha256 of all other entries: against a slip of the hand, not against malice."""
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _grid(entries: dict[str, Any]) -> Grid:
    """Read the grid, with JSON's lists as tuples again."""
    starts = {n: tuple(starts) for n, starts in entries["sampling_timesteps"].items()}
    return Grid(
        **entries
        | {
            "knots": tuple(entries["knots"]),
            "boundaries": tuple(entries["boundaries"]),
            "sampling_timesteps": starts,
        }
    )

"""The contract of an artefact, `fewstep.json`: what its student was trained for.

The sampler takes its timesteps from here and never from the user's memory.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from fewstep.config import LongPrompts
from fewstep.diffusion.grid import Grid
from fewstep.diffusion.guidance import check_guidance
from fewstep.diffusion.prediction import output_reader
from fewstep.diffusion.schedule import NoiseSchedule
from fewstep.errors import UserError
from fewstep.methods import METHODS, Method
from fewstep.methods.base import known_num_steps, sampling_timesteps
from fewstep.strict import from_tables

FORMAT_VERSION = 2
"""What is written. With version 1, read as well, a seed meant another noise."""
READ_VERSIONS = (1, 2)
CONTRACT_FILE = "fewstep.json"
LORA_FILE = "pytorch_lora_weights.safetensors"
FULL_FILE = "unet/diffusion_pytorch_model.safetensors"
SCHEDULER_FILE = "scheduler/scheduler_config.json"
OPENVINO_FOLDER = "fused/openvino/"
OPENVINO_FILE = "unet/openvino_model.xml"
"""The folder of an artefact that OpenVINO computes, and a file that it holds."""


@dataclass(frozen=True)
class Contract:
    """The method with its settings, the base model's scheduler config and how both were used.

    The timestep grid, the sampling timesteps and the noise schedule follow from these.

    Raises:
        ValueError: if the method, its settings, the schedule, the prediction type or the guidance
            scale cannot be used.
    """

    method: Mapping[str, Any]
    scheduler_config: Mapping[str, Any]
    guidance_scale: float
    adapter: Mapping[str, Any] = field(default_factory=dict)
    base: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        name: str,
        method: Method,
        guidance_scale: float,
        scheduler_config: Mapping[str, Any],
        **more: Mapping[str, Any],
    ) -> "Contract":
        """Return the contract of a student trained with `method`, a METHODS entry's instance."""
        settings = asdict(method)  # type: ignore[call-overload]
        return cls({"name": name, **settings}, dict(scheduler_config), guidance_scale, **more)

    def __post_init__(self) -> None:
        check_guidance(self.guidance_scale)
        output_reader(self.prediction_type, self.schedule)
        known, how = get_args(LongPrompts), self.base.get("long_prompts", "cut")
        if how not in known:
            raise ValueError(f"base.long_prompts is {how!r}; known: {', '.join(known)}")
        self.grid  # noqa: B018  the settings fit the schedule

    @cached_property
    def _method(self) -> Method:
        settings = dict(self.method)
        name = settings.pop("name", None)
        if name not in METHODS:
            raise UserError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
        return from_tables(METHODS[name], settings, "method.")

    @cached_property
    def schedule(self) -> NoiseSchedule:
        """The base model's noise levels."""
        return NoiseSchedule.from_config(self.scheduler_config)

    @property
    def prediction_type(self) -> str:
        """What the network predicts, by diffusers' name."""
        return self.scheduler_config.get("prediction_type", "epsilon")

    @property
    def long_prompts(self) -> LongPrompts:
        """How prompts were read in training, and are in sampling; older contracts do not say it."""
        return self.base.get("long_prompts", "cut")

    @property
    def sampler(self) -> str:
        """A key of SAMPLERS."""
        return self._method.sampler

    @cached_property
    def grid(self) -> Grid:
        """The solver's timesteps and the segments at the end of training."""
        return self._method.grid(self.schedule.num_train_timesteps)

    @cached_property
    def sampling_timesteps(self) -> Mapping[int, tuple[int, ...]]:
        """By number of steps, the timesteps of the network evaluations, noisiest first."""
        total = self.grid.num_train_timesteps
        return {
            num_steps: sampling_timesteps(self._method, num_steps, total)
            for num_steps in known_num_steps(self._method)
        }

    @property
    def default_num_steps(self) -> int:
        """The number of segments, or 4 (or the most below it) where any number will do."""
        if self.grid.num_segments > 1:
            return self.grid.num_segments
        return max(num_steps for num_steps in self.sampling_timesteps if num_steps <= 4)

    def timesteps(self, num_steps: int | None = None) -> tuple[int, ...]:
        """Return the sampling timesteps for a number of steps, noisiest first.

        Raises:
            UserError: if the student cannot be sampled in so many, naming the numbers that work.
        """
        num_steps = self.default_num_steps if num_steps is None else num_steps
        if num_steps not in self.sampling_timesteps:
            segments = self.grid.num_segments
            reason = f"it was trained on {segments} segments"
            if segments == 1:
                reason = f"they have to divide its solver's {self.grid.num_steps}"
            raise UserError(
                f"this {self.method['name']} student is sampled in "
                f"{', '.join(map(str, self.sampling_timesteps))} steps, not {num_steps}: {reason}"
            )
        return self.sampling_timesteps[num_steps]

    @property
    def takes_guidance(self) -> bool:
        """Whether guidance and negative prompts may be used in sampling.

        A student learns what they need if none was distilled into it and captions were dropped.
        """
        return self.guidance_scale == 1 and self.data.get("caption_dropout", 0) > 0

    def to_json(self) -> str:
        """Return the content of fewstep.json, with its checksum."""
        entries = {"format_version": FORMAT_VERSION} | asdict(self) | self._derived_entries()
        del entries["scheduler_config"]  # is schedule.config
        return json.dumps(entries | {"seal": _checksum(entries)}, indent=2, sort_keys=True) + "\n"

    def _derived_entries(self) -> dict[str, dict[str, Any]]:
        """Return the parts of the file that follow from the others, by the file's own keys."""
        return {
            "grid": {
                "num_train_timesteps": self.grid.num_train_timesteps,
                "knots": list(self.grid.timesteps),
                "boundaries": list(self.grid.boundaries),
                "sampling_timesteps": {
                    str(num_steps): list(timesteps)
                    for num_steps, timesteps in self.sampling_timesteps.items()
                },
                "sampler": self.sampler,
            },
            "schedule": {
                "config": dict(self.scheduler_config),
                "prediction_type": self.prediction_type,
                "sha256": self.schedule.digest,
            },
        }

    @classmethod
    def from_json(cls, text: str, source: str | Path = CONTRACT_FILE) -> "Contract":
        """Read a contract and check it.

        Raises:
            UserError: if it is not JSON, of another version, lacks or adds an entry, cannot be
                used, contradicts itself, or was changed since it was written.
        """
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError) as error:  # of huge numbers and deep nesting too
            raise UserError(f"{source} is not JSON ({error}); export the run again") from error
        if not isinstance(entries, dict):
            raise UserError(f"{source} is not a JSON object; export the run again")
        version = entries.get("format_version")
        if version not in READ_VERSIONS:
            known = " and ".join(map(str, READ_VERSIONS))
            raise UserError(
                f"{source} has format_version {version!r}; this fewstep reads {known}: "
                "update fewstep, or export the run again"
            )
        checksum = entries.pop("seal", None)
        try:
            contract = cls._from_entries(entries)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            reason = error if isinstance(error, ValueError) else repr(error)
            raise UserError(
                f"{source} is not a valid contract: {reason}; export the run again"
            ) from error
        if checksum != _checksum(entries):
            raise UserError(
                f"{source} was changed after it was written: its checksum (seal) does not match; "
                "get the artefact again, or run its fewstep distill again"
            )
        return contract

    @classmethod
    def _from_entries(cls, entries: Mapping[str, Any]) -> "Contract":
        """Read the independent entries, and compare the others with what follows from them."""
        derived = ("format_version", "grid", "schedule")
        own = {name: value for name, value in entries.items() if name not in derived}
        contract = from_tables(cls, {"scheduler_config": entries["schedule"]["config"], **own})
        for part, expected in contract._derived_entries().items():
            for name in [*expected, *entries[part]]:
                if expected.get(name, "absent") != entries[part].get(name, "absent"):
                    raise UserError(
                        f"{part}.{name} does not follow from the method and the scheduler config"
                    )
        return contract


def _checksum(entries: Mapping[str, Any]) -> str:
    """Return the sha256 of all other entries: against a slip of the hand, not against malice."""
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()

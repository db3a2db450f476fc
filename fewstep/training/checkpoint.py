"""The state of a training, and checkpoints of it: whole or absent, in safetensors and JSON."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from fewstep.errors import UserError
from fewstep.files import write_file, write_folder
from fewstep.student.unfinished import saved_checkpoints
from fewstep.training.divergence import DivergenceMonitor, TrainingDivergedError, not_finite

FAKE = "fake_"
"""How the names of the fake score's files begin in a checkpoint."""


@dataclass
class TrainState:
    """Everything that training changes. `averaged` is the EMA of `trained`, or empty without one.

    `fake` is the state of the fake score, which has no average; its `step` counts its own updates.
    """

    trained: Mapping[str, nn.Parameter]
    averaged: Mapping[str, Tensor]
    optimizer: torch.optim.Optimizer
    scaler: GradScaler = field(default_factory=lambda: GradScaler(enabled=False))
    monitor: DivergenceMonitor = field(default_factory=DivergenceMonitor)
    step: int = 0
    """The number of optimiser steps that were taken."""
    fake: "TrainState | None" = None

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors of each file of a checkpoint."""
        moments = {
            f"{key}/{name}": value
            for name, parameter in self.trained.items()
            for key, value in self.optimizer.state[parameter].items()
        }
        groups = {"trained": self.trained, "averaged": self.averaged, "optimizer": moments}
        own = {
            group: {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
            for group, tensors in groups.items()
            if group in self.groups
        }
        fake = self.fake.tensors() if self.fake else {}
        return own | {FAKE + group: fake[group] for group in fake}

    def numbers(self) -> dict[str, Any]:
        """Return the contents of a checkpoint's state.json."""
        monitor = {"watch": self.monitor.state_dict(), "is_calm": self.monitor.is_stable}
        scale = {"loss_scale": self.scaler.state_dict()} if self.scaler.is_enabled() else {}
        fake = {"fake": self.fake.numbers()} if self.fake else {}
        return {"step": self.step, **monitor, **scale, **fake}

    def load(
        self,
        tensors: Mapping[str, Mapping[str, Tensor]],
        numbers: Mapping[str, Any],
        path: Path,
    ) -> None:
        """Restore what `tensors` and `numbers` returned, as read from `path`.

        Raises:
            UserError: if the weights are those of another model or adapter.
        """
        for own, group in ((self.trained, "trained"), (self.averaged, "averaged")):
            saved = tensors.get(group, {})
            if {n: v.shape for n, v in own.items()} != {n: v.shape for n, v in saved.items()}:
                raise UserError(
                    f"{path} holds the weights of another model or adapter; use a new --run folder"
                )
            with torch.no_grad():
                for name, value in saved.items():
                    own[name].copy_(value)
        for key_and_name, value in tensors["optimizer"].items():
            key, name = key_and_name.split("/", 1)
            parameter = self.trained[name]
            self.optimizer.state[parameter][key] = value.to(parameter.device)
        if self.scaler.is_enabled() and "loss_scale" in numbers:
            self.scaler.load_state_dict(numbers["loss_scale"])
        if "watch" in numbers:
            self.monitor.load_state_dict(numbers["watch"])
        self.step = numbers["step"]
        if self.fake:
            fake = {group: tensors[FAKE + group] for group in ("trained", "optimizer")}
            self.fake.load(fake, numbers["fake"], path)

    @property
    def groups(self) -> tuple[str, ...]:
        """The files of a checkpoint, by the names that `tensors` gives them."""
        fake = (FAKE + "trained", FAKE + "optimizer") if self.fake else ()
        return ("trained", *(["averaged"] if self.averaged else []), "optimizer", *fake)


@dataclass(frozen=True)
class Checkpoints:
    """The folder `RUN/checkpoints`, with a folder for each saved step.

    The last `keep_last` are kept and, while the loss rises, the last one from before it did.
    """

    folder: Path
    state: TrainState
    keep_last: int

    @property
    def needed_bytes(self) -> int:
        """Upper bound of what is still to be written: all that are kept, and one beside them."""
        num_moments = 2
        state, fake = self.state, self.state.fake
        size = sum(weight.nbytes for weight in state.trained.values()) * (2 + num_moments)
        if fake:
            size += sum(weight.nbytes for weight in fake.trained.values()) * (1 + num_moments)
        present = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())
        return max(0, size * (self.keep_last + 2) - present)

    @property
    def saved(self) -> list[Path]:
        """The whole checkpoints, oldest first."""
        return saved_checkpoints(self.folder)

    def save(self) -> Path:
        """Save the state, and remove checkpoints that are no longer kept.

        Raises:
            TrainingDivergedError: if weights are not finite; the last checkpoint is kept.
        """
        if broken := not_finite(self.state.trained) or not_finite(self.state.averaged):
            what = f"the weight {broken[0]} is not finite after it"
            raise TrainingDivergedError(self.state.step - 1, what)

        def fill(folder: Path) -> None:
            for name, tensors in self.state.tensors().items():
                write_file(folder / f"{name}.safetensors", save(tensors))
            write_file(folder / "state.json", json.dumps(self.state.numbers()))

        path = self.folder / f"{self.state.step:08d}"
        write_folder(path, fill)
        last_stable = next(filter(_is_stable, reversed(self.saved)), None)
        for old in self.saved[: -self.keep_last]:
            if old != last_stable:
                shutil.rmtree(old)
        return path

    def load_last(self) -> None:
        """Load the newest checkpoint, if there is one.

        Raises:
            UserError: if its weights are not those of this run's model, or a file is damaged.
        """
        if not self.saved:
            return
        path = self.saved[-1]
        try:
            files = {group: path / f"{group}.safetensors" for group in self.state.groups}
            tensors = {group: load_file(file) for group, file in files.items()}
            numbers = _read_numbers(path)
            int(numbers["step"])
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"the checkpoint {path} is damaged ({error}); delete this folder to continue from "
                "the one before, or from the start"
            ) from error
        self.state.load(tensors, numbers, path)


def _read_numbers(path: Path) -> dict[str, Any]:
    return json.loads((path / "state.json").read_text(encoding="utf-8"))


def _is_stable(path: Path) -> bool:
    return _read_numbers(path).get("is_calm", True)

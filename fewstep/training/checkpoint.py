"""Checkpoints: weights, their average and the optimiser, whole or absent; no pickles."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from fewstep.errors import UserError
from fewstep.files import write_file, write_folder
from fewstep.training.trainer import Weights


class Checkpoints:
    """The folder `RUN/checkpoints`, one folder a saved step, the last `keep_last` kept."""

    def __init__(
        self,
        folder: Path,
        weights: Weights,
        optimizer: torch.optim.Optimizer,
        keep_last: int,
    ) -> None:
        self.folder, self.weights, self.optimizer = folder, weights, optimizer
        self.keep_last = keep_last

    @property
    def saved(self) -> list[Path]:
        """The whole checkpoints, oldest first."""
        return sorted(p for p in self.folder.glob("[0-9]*") if (p / "state.json").is_file())

    def save(self, step: int) -> Path:
        """Save the state after `step` optimiser steps."""
        path = self.folder / f"{step:08d}"

        def fill(beside: Path) -> None:
            write_file(beside / "trained.safetensors", save(_plain(self.weights.trained)))
            write_file(beside / "averaged.safetensors", save(_plain(self.weights.averaged)))
            write_file(beside / "optimizer.safetensors", save(self._optimizer_state()))
            write_file(beside / "state.json", json.dumps({"step": step}))

        write_folder(path, fill)
        for old in self.saved[: -self.keep_last]:
            shutil.rmtree(old)
        return path

    def load_last(self) -> int:
        """Load the newest checkpoint if there is one, and return the number of steps done.

        Raises:
            UserError: if its weights are not those of this run's model.
        """
        if not self.saved:
            return 0
        path = self.saved[-1]
        _load_into(self.weights.trained, load_file(path / "trained.safetensors"), path)
        _load_into(self.weights.averaged, load_file(path / "averaged.safetensors"), path)
        self._load_optimizer(load_file(path / "optimizer.safetensors"))
        return int(json.loads((path / "state.json").read_text())["step"])

    def _optimizer_state(self) -> dict[str, Tensor]:
        state = {
            f"{key}/{name}": value
            for name, parameter in self.weights.trained.items()
            for key, value in self.optimizer.state[parameter].items()
        }
        return _plain(state)

    def _load_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        for joined, value in tensors.items():
            key, name = joined.split("/", 1)
            parameter = self.weights.trained[name]
            device = "cpu" if key == "step" else parameter.device
            self.optimizer.state[parameter][key] = value.to(device)


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _load_into(own: Mapping[str, Tensor], saved: Mapping[str, Tensor], path: Path) -> None:
    if {n: v.shape for n, v in own.items()} != {n: v.shape for n, v in saved.items()}:
        raise UserError(
            f"{path} holds the weights of another model or adapter; use a new --run folder"
        )
    with torch.no_grad():
        for name, value in saved.items():
            own[name].copy_(value)

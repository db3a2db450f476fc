"""Checkpoints: weights, average, optimiser, loss scale and watch, whole or absent; no pickles."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from fewstep.errors import UserError
from fewstep.files import write_file, write_folder
from fewstep.training.divergence import Watch
from fewstep.training.loop import Weights


class Checkpoints:
    """The folder `RUN/checkpoints`, one folder a saved step.

    The last `keep_last` are kept and, while the loss rises, the newest from before it did.
    """

    def __init__(
        self,
        folder: Path,
        weights: Weights,
        optimizer: torch.optim.Optimizer,
        keep_last: int,
        scaler: GradScaler | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.folder, self.weights, self.optimizer = folder, weights, optimizer
        self.keep_last, self.scaler = keep_last, scaler or GradScaler(enabled=False)
        self.watch = watch or Watch()

    @property
    def needed_bytes(self) -> int:
        """Upper bound of what is still to be written: all that are kept, and one beside them."""
        trained, moments = self.weights.trained.values(), 2
        copies = sum(weight.nbytes for weight in trained) * (2 + moments)
        there = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())
        return max(0, copies * (self.keep_last + 2) - there)

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
            write_file(beside / "state.json", json.dumps(self._state(step)))

        write_folder(path, fill)
        last_calm = next(filter(_is_calm, reversed(self.saved)), None)
        for old in self.saved[: -self.keep_last]:
            if old != last_calm:
                shutil.rmtree(old)
        return path

    def load_last(self) -> int:
        """Load the newest checkpoint if there is one, and return the number of steps done.

        Raises:
            UserError: if its weights are not those of this run's model, or a file is damaged.
        """
        if not self.saved:
            return 0
        path = self.saved[-1]
        try:
            parts = [load_file(path / f"{name}.safetensors")
                     for name in ("trained", "averaged", "optimizer")]  # fmt: skip
            state = json.loads((path / "state.json").read_text(encoding="utf-8"))
            step = int(state["step"])
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"the checkpoint {path} is damaged ({error}); delete this folder to continue from "
                "the one before, or from the start"
            ) from error
        trained, averaged, optimizer = parts
        _load_into(self.weights.trained, trained, path)
        _load_into(self.weights.averaged, averaged, path)
        self._load_optimizer(optimizer)
        if self.scaler.is_enabled() and "loss_scale" in state:
            self.scaler.load_state_dict(state["loss_scale"])
        if "watch" in state:
            self.watch.load_state_dict(state["watch"])
        return step

    def _state(self, step: int) -> dict[str, Any]:
        scale = {"loss_scale": self.scaler.state_dict()} if self.scaler.is_enabled() else {}
        watched = {"watch": self.watch.state_dict(), "is_calm": self.watch.is_calm}
        return {"step": step, **watched, **scale}

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
            self.optimizer.state[parameter][key] = value.to(parameter.device)


def _is_calm(path: Path) -> bool:
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    return state.get("is_calm", True)


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

"""The training loop of all bundled networks: resumable bit for bit, and extensible later."""

import copy
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from statistics import fmean
from typing import TypeVar

import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fewstep.errors import UserError
from recipes.bundled_teacher.config import PlanSettings
from recipes.bundled_teacher.optimizers import Optimizer

LossAt = Callable[[int], dict[str, Tensor]]
"""From the number of a step to its losses; `loss` is minimised, the others are logged.

All randomness has to be a function of the step, so that no random state needs to be stored.
"""

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class TrainingState:
    """What changes during training, in place: the content of a checkpoint."""

    network: nn.Module
    average: nn.Module
    optimizer: Optimizer

    def state_dict(self) -> dict:
        return {name: part.state_dict() for name, part in vars(self).items()}

    def load_state_dict(self, saved: dict) -> None:
        for name, part in vars(self).items():
            part.load_state_dict(saved[name])


def learning_rate(plan: PlanSettings, step: int) -> float:
    """Return the rate at a step: linear warm-up, a plateau, and a linear decay to zero.

    >>> plan = PlanSettings(steps=100, learning_rate=1.0, warmup=10, decay=20)
    >>> [learning_rate(plan, step) for step in (0, 9, 50, 80, 90)]
    [0.1, 1.0, 1.0, 1.0, 0.5]
    """
    warmup = min(1.0, (step + 1) / max(1, plan.warmup))
    return plan.learning_rate * warmup * min(1.0, (plan.steps - step) / max(1, plan.decay))


def working_precision(plan: PlanSettings) -> torch.autocast:
    """Return the context of a forward pass: bf16 if the plan and the processor allow it."""
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.autocast("cpu", torch.bfloat16, enabled=plan.bf16 and has_bf16)


def optimise(
    name: str, network: Network, loss_at: LossAt, plan: PlanSettings, run: Path, ema: float = 0.0
) -> Network:
    """Train a network, or continue from its checkpoint, and return its moving average."""
    torch.set_num_threads(plan.threads)
    average = copy.deepcopy(network).requires_grad_(False)
    state = TrainingState(network, average, Optimizer(network, plan))
    first = restore(run, name, plan, state)
    recent: list[dict[str, float]] = []
    with Progress() as progress:
        bar = progress.add_task(name, total=plan.steps, completed=first)
        for step in range(first, plan.steps):
            started, done = time.perf_counter(), step + 1
            figures = update(state, loss_at, plan, step)
            update_average(state, min(ema, done / (10 + done)))
            recent.append(figures | {"seconds": time.perf_counter() - started})
            progress.update(bar, completed=done, description=f"{name} {figures['loss']:.4f}")
            if done % plan.log_every == 0:
                log(run, name, done, recent)
                recent.clear()
            if done == plan.steps - plan.decay:
                save(plateau_path(run, name), done, plan, state)
            if done % plan.save_every == 0 or done == plan.steps:
                save(checkpoint_path(run, name), done, plan, state)
    return average


def update(
    state: TrainingState, loss_at: LossAt, plan: PlanSettings, step: int
) -> dict[str, float]:
    """Take one optimiser step and return its losses and other figures."""
    rate = learning_rate(plan, step)
    with sdpa_kernel(SDPBackend.MATH):  # on a CPU several times faster for sequences this short
        losses = loss_at(step)
        losses["loss"].backward()
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), plan.max_grad_norm)
    state.optimizer.step(rate)
    figures = {key: float(value.detach()) for key, value in losses.items()}
    return figures | {"grad_norm": float(norm), "learning_rate": rate}


@torch.no_grad()
def update_average(state: TrainingState, decay: float) -> None:
    """Move the average towards the network: average = decay * average + (1 - decay) * network."""
    torch._foreach_lerp_(
        list(state.average.parameters()), list(state.network.parameters()), 1 - decay
    )
    for ours, theirs in zip(state.average.buffers(), state.network.buffers(), strict=True):
        ours.copy_(theirs)


def checkpoint_path(run: Path, name: str) -> Path:
    """Return the file of the latest checkpoint of a network."""
    return run / "checkpoints" / f"{name}.pt"


def plateau_path(run: Path, name: str) -> Path:
    """Return the file of the checkpoint from just before the decay."""
    return run / "checkpoints" / f"{name}-before-decay.pt"


def save(path: Path, step: int, plan: PlanSettings, state: TrainingState) -> None:
    """Write a checkpoint atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save({"step": step, "planned": plan.steps, **state.state_dict()}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def restore(run: Path, name: str, plan: PlanSettings, state: TrainingState) -> int:
    """Load the checkpoint to continue from, if there is one, and return the number of steps done.

    The latest one, unless the plan was extended after its decay had begun: then the one from before
    the decay, so that the plateau gets longer.
    """
    path = checkpoint_path(run, name)
    if not path.exists():
        return 0
    saved = read(path)
    decayed = saved["step"] > saved["planned"] - plan.decay
    if decayed and saved["planned"] != plan.steps and plateau_path(run, name).exists():
        saved = read(plateau_path(run, name))
    state.load_state_dict(saved)
    return saved["step"]


def read(path: Path) -> dict:
    """Read a checkpoint.

    Raises:
        UserError: if it is damaged.
    """
    try:
        return torch.load(path, weights_only=True)
    except (RuntimeError, EOFError, UnpicklingError) as error:
        raise UserError(
            f"{path} is damaged ({error}); delete it to train this part from the beginning"
        ) from error


def load_average(run: Path, name: str, network: nn.Module) -> int:
    """Load the moving average of the latest checkpoint and return the number of steps done.

    Raises:
        FileNotFoundError: if nothing is saved yet.
    """
    path = checkpoint_path(run, name)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist yet: train until its first checkpoint")
    state = read(path)
    network.load_state_dict(state["average"])
    return state["step"]


def log(run: Path, name: str, step: int, recent: list[dict[str, float]]) -> None:
    """Append one line to the run's metrics: the means over the steps since the last line."""
    means = {key: fmean(figures[key] for figures in recent) for key in recent[0]}
    line = {"stage": name, "step": step} | {key: float(f"{v:.5g}") for key, v in means.items()}
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")

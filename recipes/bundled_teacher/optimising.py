"""The one training loop of the bundled networks: resumable bit for bit, and extensible later."""

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

All its randomness has to be a function of the step: then no random state needs storing.
"""

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Parts:
    """What changes during training, in place: the checkpoint's content."""

    network: nn.Module
    average: nn.Module
    optimizer: Optimizer

    def state(self) -> dict:
        return {name: part.state_dict() for name, part in vars(self).items()}

    def load(self, state: dict) -> None:
        for name, part in vars(self).items():
            part.load_state_dict(state[name])


def learning_rate(plan: PlanSettings, step: int) -> float:
    """Return the rate at a step: linear warm-up, a plateau, and a linear decay to zero.

    >>> plan = PlanSettings(steps=100, learning_rate=1.0, warmup=10, decay=20)
    >>> [learning_rate(plan, step) for step in (0, 9, 50, 80, 90)]
    [0.1, 1.0, 1.0, 1.0, 0.5]
    """
    warmth = min(1.0, (step + 1) / max(1, plan.warmup))
    return plan.learning_rate * warmth * min(1.0, (plan.steps - step) / max(1, plan.decay))


def working_precision(plan: PlanSettings) -> torch.autocast:
    """Return the context of a forward pass: bf16 where the plan and the processor have it."""
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.autocast("cpu", torch.bfloat16, enabled=plan.bf16 and has_bf16)


def optimise(
    name: str, network: Network, loss_at: LossAt, plan: PlanSettings, run: Path, ema: float = 0.0
) -> Network:
    """Train a network, or continue from its checkpoint, and return its moving average."""
    torch.set_num_threads(plan.threads)
    average = copy.deepcopy(network).requires_grad_(False)
    parts = Parts(network, average, Optimizer(network, plan))
    first = restore(run, name, plan, parts)
    recent: list[dict[str, float]] = []
    with Progress() as progress:
        bar = progress.add_task(name, total=plan.steps, completed=first)
        for step in range(first, plan.steps):
            started, done = time.perf_counter(), step + 1
            figures = update(parts, loss_at, plan, step)
            follow(parts, min(ema, done / (10 + done)))
            recent.append(figures | {"seconds": time.perf_counter() - started})
            progress.update(bar, completed=done, description=f"{name} {figures['loss']:.4f}")
            if done % plan.log_every == 0:
                log(run, name, done, recent)
                recent.clear()
            if done == plan.steps - plan.decay:
                save(plateau_path(run, name), done, plan, parts)
            if done % plan.save_every == 0 or done == plan.steps:
                save(checkpoint_path(run, name), done, plan, parts)
    return average


def update(parts: Parts, loss_at: LossAt, plan: PlanSettings, step: int) -> dict[str, float]:
    """Take one optimiser step and return its losses and other figures."""
    rate = learning_rate(plan, step)
    with sdpa_kernel(SDPBackend.MATH):  # on a CPU several times faster for sequences this short
        losses = loss_at(step)
        losses["loss"].backward()
    norm = nn.utils.clip_grad_norm_(parts.network.parameters(), plan.max_grad_norm)
    parts.optimizer.step(rate)
    figures = {key: float(value.detach()) for key, value in losses.items()}
    return figures | {"grad_norm": float(norm), "learning_rate": rate}


@torch.no_grad()
def follow(parts: Parts, decay: float) -> None:
    """Move the average towards the network: average = decay * average + (1 - decay) * network."""
    torch._foreach_lerp_(
        list(parts.average.parameters()), list(parts.network.parameters()), 1 - decay
    )
    for ours, theirs in zip(parts.average.buffers(), parts.network.buffers(), strict=True):
        ours.copy_(theirs)


def checkpoint_path(run: Path, name: str) -> Path:
    """Return where the latest checkpoint of a network lies."""
    return run / "checkpoints" / f"{name}.pt"


def plateau_path(run: Path, name: str) -> Path:
    """Return where the checkpoint from just before the decay lies."""
    return run / "checkpoints" / f"{name}-before-decay.pt"


def save(path: Path, step: int, plan: PlanSettings, parts: Parts) -> None:
    """Write a checkpoint whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial")
    with beside.open("wb") as file:
        torch.save({"step": step, "planned": plan.steps, **parts.state()}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def restore(run: Path, name: str, plan: PlanSettings, parts: Parts) -> int:
    """Load the checkpoint to continue from, if there is one, and return the number of steps done.

    The latest one, unless the plan has got longer since and its decay had begun: then the one from
    before the decay, so that it is the plateau that gets longer.
    """
    path = checkpoint_path(run, name)
    if not path.exists():
        return 0
    state = read(path)
    decayed = state["step"] > state["planned"] - plan.decay
    if decayed and state["planned"] != plan.steps and plateau_path(run, name).exists():
        state = read(plateau_path(run, name))
    parts.load(state)
    return state["step"]


def read(path: Path) -> dict:
    """Read a checkpoint.

    Raises:
        UserError: if it is damaged.
    """
    try:
        return torch.load(path, weights_only=True)
    except (RuntimeError, EOFError, UnpicklingError) as error:
        raise UserError(
            f"{path} is damaged ({error}); delete it to train this part from its beginning"
        ) from error


def load_average(run: Path, name: str, network: nn.Module) -> int:
    """Load the moving average of the latest checkpoint and return the number of steps done.

    Raises:
        FileNotFoundError: nothing was saved yet.
    """
    path = checkpoint_path(run, name)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist yet: train until its first checkpoint")
    state = read(path)
    network.load_state_dict(state["average"])
    return state["step"]


def log(run: Path, name: str, step: int, recent: list[dict[str, float]]) -> None:
    """Append one line to the run's metrics: the means over the steps since the last one."""
    means = {key: fmean(figures[key] for figures in recent) for key in recent[0]}
    line = {"stage": name, "step": step} | {key: float(f"{v:.5g}") for key, v in means.items()}
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")

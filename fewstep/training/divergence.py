"""Detect a training that diverges, and report what is known about why."""

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from fewstep.errors import UserError

WINDOW = 25
EXPLODED = 100.0
"""The training has diverged where the mean loss of WINDOW steps is this many times its minimum."""

STABLE = 2.0
"""Up to this many times its minimum, the mean loss is no sign of divergence."""

QUARTERS = ("the cleanest", "the second", "the third", "the noisiest")


MOST_NAMED = 3
"""Samples that an error names."""

WAY_ON = (
    "Check the data for broken images, or start in a new --run folder with a lower "
    "train.learning_rate or train.max_grad_norm, or with model.precision 'bf16' or 'fp32'"
)


class TrainingDivergedError(UserError):
    """The loss or its gradient is not finite, or the loss explodes.

    `step` is counted from 0. `samples` are those whose losses are not finite, or else highest.
    """

    def __init__(
        self, step: int, what: str, samples: Sequence[int] = (), way_on: str = WAY_ON
    ) -> None:
        super().__init__(
            f"training diverged at step {step + 1}: {what}; the last checkpoint from before is "
            f"kept. {way_on}"
        )
        self.step, self.what, self.samples = step, what, tuple(samples)


@dataclass
class DivergenceMonitor:
    """Checks every step before the weights change. Checkpoints save and restore it."""

    last: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    lowest: float = math.inf

    @property
    def mean(self) -> float:
        """The mean loss of the last WINDOW steps."""
        return sum(self.last) / len(self.last)

    @property
    def is_stable(self) -> bool:
        """Whether the loss shows no sign of divergence."""
        return len(self.last) < WINDOW or self.mean <= STABLE * self.lowest

    def state_dict(self) -> dict[str, Any]:
        """Return the state, for a checkpoint."""
        return {"last": [*self.last], "lowest": self.lowest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.last.clear()
        self.last.extend(state["last"])
        self.lowest = state["lowest"]

    def check_loss(self, step: int, losses: Tensor, by_noise: Sequence[float | None]) -> None:
        """Refuse losses, one a sample, of which one is not finite, or that have exploded.

        Raises:
            TrainingDivergedError: naming the noise levels at fault.
        """
        loss = losses.mean().item()
        if not math.isfinite(loss):
            broken = [QUARTERS[i] for i, mean in enumerate(by_noise)
                      if mean is not None and not math.isfinite(mean)]  # fmt: skip
            where = f"in {' and '.join(broken)} quarter of timesteps"
            what = f"the loss is {loss}, {where}; before it was {self._last_losses()}"
            raise diverged(step, what, losses)
        self.last.append(loss)
        if len(self.last) == WINDOW:
            if self.mean > EXPLODED * self.lowest:
                change = f"was {self.lowest:.4g} and is {self.mean:.4g}"
                what = f"the loss explodes: the mean of {WINDOW} steps {change}"
                raise diverged(step, what, losses)
            self.lowest = min(self.lowest, self.mean)

    def check_gradient(
        self, step: int, norm: float, trained: Mapping[str, nn.Parameter], losses: Tensor
    ) -> None:
        """Refuse a gradient that is not finite.

        Raises:
            TrainingDivergedError: naming the weights at fault.
        """
        if math.isfinite(norm):
            return
        broken = [name for name, weight in trained.items()
                  if weight.grad is not None and not weight.grad.isfinite().all()]  # fmt: skip
        what = f"the norm of the gradient is {norm}"
        if broken:
            count = f"{len(broken)} of {len(trained)} weights"
            what = f"the gradient of {count} is not finite, first {broken[0]}"
        raise diverged(step, f"{what}; the loss was {self._last_losses()}", losses)

    def _last_losses(self) -> str:
        return ", ".join(f"{loss:.4g}" for loss in [*self.last][-3:]) or "not seen yet"


def diverged(step: int, what: str, losses: Tensor) -> TrainingDivergedError:
    """Return the error for a step, counted from 0, whose samples have these losses."""
    broken = losses.isfinite().logical_not().nonzero().flatten()
    worst = broken if len(broken) else losses.argsort(descending=True)
    return TrainingDivergedError(step, what, worst[:MOST_NAMED].tolist())


@contextmanager
def of_samples(numbers: Sequence[int]) -> Iterator[None]:
    """Within the block, tell of samples by these numbers instead of their places in the step."""
    try:
        yield
    except TrainingDivergedError as error:
        samples = [numbers[place] for place in error.samples]
        raise TrainingDivergedError(error.step, error.what, samples) from None


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the weights that hold numbers which are not finite."""
    return [name for name, weight in weights.items() if not weight.isfinite().all()]

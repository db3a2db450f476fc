"""Curves and images of a run: TensorBoard always, Weights & Biases or Trackio where set."""

# of libraries without types
# pyright: reportArgumentType=false

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from PIL import Image

from fewstep.config import Config
from fewstep.files import writing
from fewstep.training.run_dir import flat

MAX_QUEUE = 1000
"""Events that wait for TensorBoard's thread: more than one call here adds."""


class Trackers:
    """Accelerate's trackers, which get every step and every preview.

    TensorBoard's files are written by a thread of its library. Where that cannot write, the next
    call here says so: the library would print a traceback, and wait for ever once its queue is
    full.
    """

    def __init__(self, config: Config, run: Path, first_step: int) -> None:
        names = ["tensorboard", *config.train.trackers]
        self.folder, self.lost = run / "tensorboard", list[OSError]()
        self.excepthook, threading.excepthook = threading.excepthook, self._keep
        folders = ProjectConfiguration(str(run), logging_dir=str(self.folder))
        self.accelerator = Accelerator(cpu=True, log_with=names, project_config=folders)
        same_run = hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:16]
        self.accelerator.init_trackers(
            "fewstep",
            init_kwargs={
                "tensorboard": {"purge_step": first_step + 1, "max_queue": MAX_QUEUE},
                "wandb": {"name": run.name, "dir": str(run), "id": same_run, "resume": "allow"},
                "trackio": {"name": run.name, "resume": "allow"},
            },
        )
        settings = {key: value if isinstance(value, int | float | str) else str(value)
                    for key, value in flat(config).items()}  # fmt: skip
        for tracker in self.accelerator.trackers:
            if tracker.name != "tensorboard":  # which would add a run at every continuation
                tracker.store_init_configuration(settings)

    def log(self, entry: dict[str, Any]) -> None:
        """Log one line of metrics.jsonl; a None in it draws no point."""
        values = {key: value for key, value in entry.items() if isinstance(value, int | float)}
        for quarter, loss in enumerate(entry["loss_by_noise"], start=1):
            if loss is not None:
                values[f"loss_by_noise/{quarter}"] = loss
        step = values.pop("step")
        for tracker in self.accelerator.trackers:
            with self._told(tracker):
                tracker.log({f"train/{key}": x for key, x in values.items()}, step=step)

    def show(self, preview: Path, step: int) -> None:
        """Show a preview's image."""
        with Image.open(preview) as image:
            pixels = np.asarray(image.convert("RGB"))
        for tracker in self.accelerator.trackers:
            with self._told(tracker):
                if tracker.name == "tensorboard":
                    tracker.log_images({"preview": pixels[None]}, step=step, dataformats="NHWC")
                elif hasattr(tracker, "log_images"):
                    tracker.log_images({"preview": [pixels]}, step=step)

    def close(self) -> None:
        """Let every tracker write what it still holds."""
        try:
            for tracker in self.accelerator.trackers:
                with self._told(tracker):
                    tracker.finish()
        finally:
            threading.excepthook = self.excepthook

    @contextmanager
    def _told(self, tracker: Any) -> Iterator[None]:
        """Say of TensorBoard what it, or its thread until now, could not write."""
        with writing(self.folder) if tracker.name == "tensorboard" else nullcontext():
            yield
            if self.lost and tracker.name == "tensorboard":
                raise self.lost[0]

    def _keep(self, ended: threading.ExceptHookArgs) -> None:
        """Keep the system's error that ended a thread."""
        if isinstance(ended.exc_value, OSError):
            self.lost.append(ended.exc_value)
        else:
            self.excepthook(ended)

"""Train, or continue, a run: the loop's caller, which logs, saves and draws between its steps."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from fewstep.config import Config, SettingError
from fewstep.data.loader import Batches, batches_at
from fewstep.diffusion.losses import check_weighting
from fewstep.errors import Interrupted
from fewstep.files import check_writable
from fewstep.models.loading import default_device
from fewstep.student.sample import check_words
from fewstep.training.artefact import write_artefact
from fewstep.training.loop import Requests, StepResult, train
from fewstep.training.plan import explained_memory
from fewstep.training.previews import Previews
from fewstep.training.run_dir import (
    claim_base,
    claim_data,
    claim_run_folder,
    log_entry,
    truncate_log,
)
from fewstep.training.setup import Workshop
from fewstep.training.trackers import Trackers, check_trackers


class Listener:
    """What a run tells while it works; this one says nothing."""

    def on_encoded(self, total: int) -> Callable[[int], None]:
        return lambda count: None

    def on_start(self, shop: Workshop, first_step: int) -> None: ...

    def on_step(self, result: StepResult) -> None: ...


def distill_run(
    config: Config, run: Path, listener: Listener | None = None, device: str | None = None
) -> int:
    """Train, or continue, the run in folder `run`; return the number of steps done.

    Raises:
        UserError: before any training, if a setting, the model, the data or the folder is at fault.
        Interrupted: after Ctrl-C or SIGTERM, with everything saved.
    """
    shop = Workshop(config, run, device or default_device())
    processes = shop.processes
    check_everything(shop)
    if processes.is_main:
        needed_bytes = 20_000_000 + shop.checkpoints.needed_bytes
        check_writable(run, needed_bytes)
        if not config.data.streaming:  # run and cache are on one disk, as a rule
            check_writable(shop.dataset.root, needed_bytes + shop.dataset.cache_bytes)
        claim_run_folder(shop.resolved, run)
        claim_data(run, shop.pairs.identity)
        claim_base(run, shop.family, shop.dataset.encoders)
    processes.wait()
    listener = listener or Listener()
    batches = shop.batches(listener.on_encoded)
    shop.park_codec()
    first_step = shop.checkpoints.load_last()
    if not processes.is_main:
        follow(shop, batches, first_step)
        return config.train.steps
    truncate_log(run / "metrics.jsonl", first_step)

    with stop_requests() as stop, explained_memory(config), Record(shop, first_step) as record:
        listener.on_start(shop, first_step)
        if first_step == 0:
            record.draw_if_due(0)
        clock = time.perf_counter()
        for result in steps_of(shop, batches, first_step):
            record.write(result, time.perf_counter() - clock)
            listener.on_step(result)
            is_last = result.step == config.train.steps
            signum = processes.all_reduce_max(stop[0] if stop else 0)
            if signum or is_last or result.step % config.train.save_every == 0:
                shop.checkpoints.save(result.step)
            record.draw_if_due(result.step)
            if signum:
                processes.wait()
                raise Interrupted(signum, f"saved {run} after step {result.step}")
            clock = time.perf_counter()
    write_artefact(shop)
    processes.wait()
    return config.train.steps


def follow(shop: Workshop, batches: Batches, first_step: int) -> None:
    """Train beside the first process, which alone writes and shows.

    Raises:
        Interrupted: when any process was asked to stop, after the first has saved.
    """
    with stop_requests() as stop, explained_memory(shop.config):
        for result in steps_of(shop, batches, first_step):
            if signum := shop.processes.all_reduce_max(stop[0] if stop else 0):
                shop.processes.wait()
                raise Interrupted(signum, f"stopped after step {result.step}")
    shop.processes.wait()


class Record:
    """What a run leaves to look at: metrics.jsonl, trackers and previews."""

    def __init__(self, shop: Workshop, first_step: int) -> None:
        self.global_batch, self.previews = shop.global_batch, Previews(shop)
        self.trackers = Trackers(shop.resolved, shop.run, first_step)
        self.log = open(shop.run / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.log.close()
        self.trackers.close()

    def write(self, result: StepResult, seconds: float) -> None:
        entry = log_entry(result, self.global_batch, seconds)
        self.log.write(json.dumps(entry) + "\n")
        self.log.flush()
        self.trackers.log(entry)

    def draw_if_due(self, step: int) -> None:
        if preview := self.previews.draw_if_due(step):
            self.trackers.show(preview, step)


def check_everything(shop: Workshop) -> None:
    """Build what can be wrong with the settings, so that it fails before any work is done."""
    config = shop.config
    shop.precision  # noqa: B018
    check_trackers(config)
    shop.guidance_scale  # noqa: B018  with the method
    check_words(config.model.base, config.train.preview_prompts)
    shop.family.latent_shape(shop.resolution)
    try:
        check_weighting(shop.named_method[1].weighting, shop.family.schedule)
    except ValueError as error:
        raise SettingError(str(error)) from error
    shop.check_batch(len(shop.pairs))
    shop.roles  # noqa: B018


def steps_of(shop: Workshop, batches: Batches, first_step: int) -> Iterator[StepResult]:
    """Return the run's training loop, from `first_step` on."""
    config = shop.config
    shop.network  # noqa: B018  ready for training
    requests = Requests(config.train, first_step, shop.processes)
    steps = train(
        shop.named_method[1],
        shop.denoisers(batches),
        shop.weights,
        shop.family.schedule,
        shop.optimizer,
        batches_at(batches, requests, config.data.workers, shop.device),
        config.train,
        first_step,
        shop.scaler,
        shop.processes,
        shop.watch,
    )
    for result in steps:
        shop.skipped.settle()
        yield result


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM instead of dying, so that the loop can save before it leaves."""
    received: list[int] = []
    wanted = (signal.SIGINT, signal.SIGTERM)
    old = {s: signal.signal(s, lambda signum, frame: received.append(signum)) for s in wanted}
    try:
        yield received
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)

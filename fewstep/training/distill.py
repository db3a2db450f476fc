"""Train, or continue, a run: between the loop's steps it is logged, saved and previewed."""

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from fewstep.config import Config
from fewstep.console import Steps, TaskProgress, finish
from fewstep.data.dataset import Dataset
from fewstep.data.loader import Batches, batches_at
from fewstep.data.pairs import check_path
from fewstep.distributed import Processes, number_started
from fewstep.errors import Interrupted
from fewstep.files import check_writable, locked, remove_unfinished, write_file, writing
from fewstep.models.loading import default_device
from fewstep.models.memory import keep_freed_memory
from fewstep.student.unfinished import RUN_CONTRACT
from fewstep.training.artefact import contract_of, write_artefact
from fewstep.training.diagnosis import explained
from fewstep.training.divergence import TrainingDivergedError
from fewstep.training.init import check_init
from fewstep.training.loop import Requests, StepResult, train
from fewstep.training.memory import check_memory, explained_memory
from fewstep.training.plan import known_pairs
from fewstep.training.previews import Previews
from fewstep.training.run_dir import claim_run, log_entry, truncate_log
from fewstep.training.setup import Components, build
from fewstep.training.stopping import ImageMonitor, Stopped, take_back
from fewstep.training.trackers import Trackers


@dataclass(frozen=True)
class TrainingStep(TaskProgress):
    """An optimiser step that was taken and logged, and is saved when the run is continued."""

    result: StepResult | None = None


def distill_run(
    config: Config, run: Path, device: str | None = None, *, force: bool = False
) -> int:
    """Train, or continue, the run in folder `run`; return the number of steps done.

    `force` starts although the memory does not suffice.

    Raises:
        UserError: before any training, if a setting, the model, the data, the memory or the folder
            is at fault.
        Interrupted: after Ctrl-C or SIGTERM, with everything saved.
    """
    return finish(distill(config, run, device, force=force))


def distill(
    config: Config, run: Path, device: str | None = None, *, force: bool = False
) -> Steps[int]:
    """Do what `distill_run` does while iterated, and yield how far encoding and training are."""
    device = device or default_device()
    check_path(config.data.path)
    if config.train.init is not None:
        check_init(config.train.init)
    known_pairs(config, number_started())
    with explained_memory(config, run, device):
        if not force:
            check_memory(config, device)
        return (yield from train_run(build(config, run, device)))


def train_run(components: Components) -> Steps[int]:
    """Train the components of a run; yield how far it is, and a TrainingStep after each step."""
    processes, run = components.processes, components.run
    if processes.is_main:
        check_disk(components)
    busy = f"{run} is being trained by another process; wait for it, or choose another --run folder"
    with locked(run, busy) if processes.is_main else nullcontext():
        if processes.is_main:
            remove_unfinished(run)
            claim_run(components)
            write_file(run / RUN_CONTRACT, contract_of(components).to_json())
        processes.wait()
        batches = yield from open_batches(components)
        components.offload()
        components.checkpoints.load_last()
        if Stopped.read(run) is None:
            with stop_signals() as received:
                yield from train_to_end(components, batches, received)
        stopped = take_back(components)
        if processes.is_main:
            write_artefact(components, stopped.kept if stopped else None)
            if stopped:
                print(f"fewstep: {run} {stopped}", file=sys.stderr)
        processes.wait()
    return stopped.kept if stopped else components.config.train.steps


def check_disk(components: Components) -> None:
    """Refuse a disk without room for checkpoints and cache, which usually share it.

    Raises:
        OSError: naming the folder.
    """
    needed_bytes = 20_000_000 + components.checkpoints.needed_bytes
    check_writable(components.run, needed_bytes)
    if not components.config.data.streaming:
        dataset = components.dataset
        check_writable(dataset.root, needed_bytes + dataset.cache_bytes)


def open_batches(components: Components) -> Steps[Batches]:
    """Return what training reads, after filling the cache where there is one."""
    config, dataset, processes = components.config, components.dataset, components.processes
    notes = dataset.notes if config.data.streaming else (yield from encode(dataset, processes))
    if processes.is_main:
        for note in filter(None, (*notes, dataset.notice())):
            print(f"fewstep: {note}", file=sys.stderr)
    batches = dataset.batches(config.train.seed, components.global_batch, components.skipped.add)
    components.check_batch(len(batches))
    return batches


def encode(dataset: Dataset, processes: Processes) -> Steps[list[str]]:
    """Encode what the cache lacks, each process its rank's slice; return notes for the user."""
    notes = dataset.claim() if processes.is_main else []
    processes.wait()
    yield from dataset.fill(processes)
    return notes


def train_to_end(components: Components, batches: Batches, received: list[int]) -> Steps[None]:
    """Train; the main process logs, saves and previews between the steps, the others only follow.

    Raises:
        Interrupted: once a signal was `received` by any process, after saving.
    """
    train, processes = components.config.train, components.processes
    with Record(components) if processes.is_main else nullcontext() as record:
        if record:
            yield TaskProgress(record.task, components.state.step, train.steps)
            if not record.previews.path.exists():  # at the start, or it was killed while drawing
                record.preview_if_due()
            record.start_clock()
        for result in steps_of(components, batches):
            if record:
                yield record.log(result)
            signum = processes.all_reduce_max(received[0] if received else 0)
            stopped = components.config.stop is not None and processes.all_reduce_max(
                int(record is not None and Stopped.read(components.run) is not None)
            )
            if record:
                if signum or result.step == train.steps or result.step % train.save_every == 0:
                    components.checkpoints.save()
                record.preview_if_due()
                record.start_clock()
            if stopped:
                return
            if signum:
                processes.wait()
                raise Interrupted(signum, f"saved {components.run} after step {result.step}")


class Record:
    """Writes the curves and images of a run: metrics.jsonl, trackers and previews."""

    def __init__(self, components: Components) -> None:
        log, step = components.run / "metrics.jsonl", components.state.step
        truncate_log(log, step)
        self.components, self.previews = components, Previews(components)
        self.monitor = ImageMonitor(components)
        self.trackers = Trackers(components.config, components.run, step)
        with writing(log):
            self.file = open(log, "a", encoding="utf-8")  # noqa: SIM115
        self.task, self.clock = f"training {components.run.name}", time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with suppress(OSError) if kind else nullcontext():  # what is not written is known already
            self.file.close()
        with suppress(OSError) if kind else nullcontext():
            self.trackers.close()

    def start_clock(self) -> None:
        """Time the next step from now on: saving and previews are no part of it."""
        self.clock = time.perf_counter()

    def log(self, result: StepResult) -> TrainingStep:
        """Log a step, which ends now, with what its images say if they are looked at."""
        seconds = time.perf_counter() - self.clock
        measured = self.monitor.check_if_due()
        entry = log_entry(result, self.components.global_batch, seconds, measured)
        with writing(Path(self.file.name)):
            self.file.write(json.dumps(entry) + "\n")
            self.file.flush()
        self.trackers.log(entry)
        note = f"loss {result.loss:.4f}  {entry['images_per_second']:.0f} img/s"
        steps = self.components.config.train.steps
        return TrainingStep(self.task, result.step, steps, note, result)

    def preview_if_due(self) -> None:
        """Write a preview and show it in the trackers, at the steps that have one."""
        if preview := self.previews.draw_if_due():
            self.trackers.show(preview, self.components.state.step)


def steps_of(components: Components, batches: Batches) -> Iterator[StepResult]:
    """Return the training loop of a run, from its state on."""
    config, state, processes = components.config, components.state, components.processes
    components.network_for_training()
    if torch.device(components.device).type == "cpu":
        keep_freed_memory()
    fake = components.fake_training
    requests = Requests(config.train, state.step, processes, fake)
    steps = train(
        state,
        components.method,
        components.denoisers(batches.uncond),
        components.family.schedule,
        batches_at(batches, requests, config.data.workers, components.device),
        settings=config.train,
        processes=processes,
        fake=fake,
    )
    try:
        for result in steps:
            components.skipped.settle()
            yield result
    except TrainingDivergedError as error:
        raise explained(error, components, batches) from None


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM instead of dying, so that the loop can save first."""
    received: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    old = {s: signal.signal(s, lambda signum, frame: received.append(signum)) for s in signals}
    try:
        yield received
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)

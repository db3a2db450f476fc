"""Train, or continue, a run: the loop's caller, which logs, saves and draws between its steps."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fewstep.config import Config, SettingError
from fewstep.data.loader import Batches, batches_at
from fewstep.diffusion.losses import check_weighting
from fewstep.errors import Interrupted
from fewstep.models.loading import default_device
from fewstep.run.artefact import write_artefact
from fewstep.run.folder import claim_run_folder, log_entry, truncate_log
from fewstep.run.paint import check_words
from fewstep.run.preview import Previews
from fewstep.run.workshop import Workshop
from fewstep.training.trainer import Requests, StepResult, train


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
    listener = listener or Listener()
    shop = Workshop(config, run, device or default_device())
    check_everything(shop)
    claim_run_folder(shop.resolved, run)
    batches = shop.batches(listener.on_encoded)
    first_step = shop.checkpoints.load_last()
    truncate_log(run / "metrics.jsonl", first_step)

    with stop_requests() as stop, open(run / "metrics.jsonl", "a", encoding="utf-8") as log:
        listener.on_start(shop, first_step)
        previews = Previews(shop)
        if first_step == 0:
            previews.draw_if_due(0)
        clock = time.perf_counter()
        for result in steps_of(shop, batches, first_step):
            seconds = time.perf_counter() - clock
            log.write(json.dumps(log_entry(result, config, seconds)) + "\n")
            log.flush()
            listener.on_step(result)
            previews.draw_if_due(result.step)
            is_last = result.step == config.train.steps
            if stop or is_last or result.step % config.train.save_every == 0:
                shop.checkpoints.save(result.step)
            if stop:
                raise Interrupted(stop[0], f"saved {run} after step {result.step}")
            clock = time.perf_counter()
    write_artefact(shop)
    return config.train.steps


def check_everything(shop: Workshop) -> None:
    """Build what can be wrong with the settings, so that it fails before any work is done."""
    config = shop.config
    if config.model.precision == "fp16":
        raise SettingError(
            "model.precision is 'fp16'; train with 'bf16' or 'fp32': loss scaling is not built yet"
        )
    shop.guidance_scale  # noqa: B018  with the method
    check_words(config.model.base, config.train.preview_prompts)
    shop.family.latent_shape(shop.resolution)
    try:
        check_weighting(shop.named_method[1].weighting, shop.family.schedule)
    except ValueError as error:
        raise SettingError(str(error)) from error
    if not len(shop.pairs):
        raise SettingError(f"data.path {config.data.path!r} holds no pairs")
    shop.roles  # noqa: B018


def steps_of(shop: Workshop, batches: Batches, first_step: int) -> Iterator[StepResult]:
    """Return the run's training loop, from `first_step` on."""
    network, settings = shop.roles.network, shop.config.train
    if settings.checkpointing:
        network.enable_gradient_checkpointing()  # type: ignore[operator]
    network.train()
    return train(
        shop.named_method[1],
        shop.denoisers(batches),
        shop.weights,
        shop.family.schedule,
        shop.optimizer,
        batches_at(
            batches, Requests(settings, first_step), shop.config.data.workers, shop.device
        ),
        settings,
        first_step,
    )


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

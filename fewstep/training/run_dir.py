"""The folder of a run: which run it belongs to, and its log."""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fewstep.config import Config, DecoderSettings, load_config, to_toml
from fewstep.errors import SettingError
from fewstep.files import write_file
from fewstep.models.base import prediction_type
from fewstep.training.artefact import versions
from fewstep.training.loop import StepResult
from fewstep.training.settings import build_method
from fewstep.training.setup import Components

HARMLESS = {
    *(f"train.{key}" for key in ("save_every", "keep_last", "preview_every", "preview_prompts")),
    *("train.trackers", "train.checkpointing", "model.allow_pickle", "model.hub_id"),
    *("data.cache", "data.workers", "data.max_skipped"),
    *(f"decoder.{field.name}" for field in dataclasses.fields(DecoderSettings)),
}
"""Settings that may change between the parts of one run: they decide no more than rounding."""

DIVISION = {"train.batch_size", "train.accumulate", "train.processes"}
"""How a step's samples are divided up: it decides nothing but which of them drop out together."""


def claim_run(components: Components) -> None:
    """Make the run's folder, or check that the one there has the same settings, data and base.

    Raises:
        SettingError: naming what differs.
    """
    run, family, dataset = components.run, components.family, components.dataset
    claim_settings(components.config, run)
    if not _is_same(run / "data.sha256", dataset.pairs.identity):
        raise SettingError(
            f"{run} has learnt from other data: images, captions, or the times of their files "
            "have changed since; choose another --run folder, or, if they were only copied, delete "
            f"{run / 'data.sha256'}"
        )
    parts = {
        "base": ("weights or noise levels", [f"{family.fingerprint} {family.schedule.digest}"]),
        "codec": (
            "VAE, text encoder or tokenizer",
            [json.dumps(encoders, sort_keys=True)
             for encoders in (dataset.encoders, dataset.earlier_encoders)],
        ),
        "prediction": ("prediction type", [prediction_type(family)]),
    }  # fmt: skip
    for name, (what, identities) in parts.items():
        if not _is_same(run / f"{name}.sha256", *identities):
            raise SettingError(
                f"{run} was started from another base: the {what} of model.base changed since; "
                "choose another --run folder, or put the old ones back"
            )


def claim_settings(config: Config, run: Path) -> None:
    """Write the resolved config into the run's folder, or check that the one there is the same.

    Raises:
        SettingError: naming the settings that differ.
    """
    path = run / "config.toml"
    if not path.exists():
        header = ", ".join(f"{name} {version}" for name, version in versions().items())
        write_file(path, f"# {header}\n{to_toml(config)}")
        return
    there = load_config(path)
    _, method = build_method(there.method)  # settings newer than that run have their defaults
    known = dataclasses.asdict(method)  # type: ignore[call-overload]
    theirs = _decisive(dataclasses.replace(there, method=known | dict(there.method)))
    ours = _decisive(config)
    differing = [
        f"{key} = {theirs.get(key)!r} there, {ours.get(key)!r} here"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    ]
    if differing:
        further = f" with train.init = {str(run)!r}, to train its student further"
        raise SettingError(
            f"{run} belongs to another run ({'; '.join(differing)}); choose another --run folder"
            f"{further if (run / 'artefact').is_dir() else ''}, or delete this one"
        )


def _is_same(path: Path, *identities: str) -> bool:
    """Whether a file holds the digest of an identity; a missing file is of the first."""
    digests = [hashlib.sha256(identity.encode()).hexdigest() for identity in identities]
    if not path.exists():
        write_file(path, f"{digests[0]}\n")
    return path.read_text(encoding="utf-8").strip() in digests


def _decisive(config: Config) -> dict[str, Any]:
    """Return what decides the weights: how a step's samples are divided up only with dropout."""
    train, adapter = config.train, config.adapter
    samples = train.batch_size * train.accumulate * (train.processes or 1)
    harmless = HARMLESS if adapter and adapter.dropout else HARMLESS | DIVISION
    decisive = {key: value for key, value in flat(config).items() if key not in harmless}
    return decisive | {"samples a step (train.batch_size x accumulate x processes)": samples}


def flat(config: Config) -> dict[str, Any]:
    """Return every setting by its dotted name."""
    return {
        f"{table}.{key}": value
        for table, values in dataclasses.asdict(config).items()
        for key, value in (values or {}).items()
    }


def truncate_log(path: Path, last_step: int) -> None:
    """Drop what was logged after the checkpoint that training continues from."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines[:last_step] if line.endswith("\n")]
        if kept != lines:
            write_file(path, "".join(kept))


def log_entry(
    result: StepResult, global_batch: int, seconds: float, measured: Mapping[str, float]
) -> dict[str, Any]:
    """Return a line of metrics.jsonl; `measured` is what images say, where they are looked at."""
    values = dataclasses.asdict(result)
    values |= values.pop("fake") | dict(measured)
    entry = {k: float(f"{v:.6g}") if isinstance(v, float) else v
             for k, v in values.items()}  # fmt: skip
    return entry | {"images_per_second": round(global_batch / seconds, 3), "memory": peak_memory()}


def peak_memory() -> int:
    """Return the most bytes used, of the GPU's allocator or else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        import psutil  # which accelerate needs as well

        return psutil.Process().memory_info().peak_wset
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

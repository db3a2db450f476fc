"""`fewstep export` and `fewstep push`: a run leaves the house."""

# of libraries without types
# pyright: reportAttributeAccessIssue=false

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from torch import Tensor

from fewstep.config import load_config, to_toml
from fewstep.errors import UserError
from fewstep.evaluation.labels import capital, metric_title, shown, shown_range
from fewstep.evaluation.results import Results, Row, load
from fewstep.files import check_writable, write_folder
from fewstep.models.base import ModelFamily
from fewstep.models.saving import save_checkpoint, save_folder
from fewstep.publishing.artefact import CARD_FILE, Artefact, halved, name_from
from fewstep.publishing.card import Card, Figures
from fewstep.publishing.hub import Parcel, upload
from fewstep.publishing.readers import FUSED_FOLDER, usage_hint
from fewstep.run.artefact import last_preview, without_own_paths, without_paths
from fewstep.sampling.artefact import (
    load_base,
    read_artefact,
    read_contract,
    student_network,
)
from fewstep.sampling.contract import CONTRACT_FILE, Contract
from fewstep.sampling.finding import on_the_hub, open_folder
from fewstep.sampling.stock import scheduler_config

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
BUNDLED_LICENSE = "apache-2.0"


@dataclass(frozen=True)
class Export:
    """What is asked of an export; see `fewstep export --help`."""

    name: str | None = None
    base: str | None = None
    license: str | None = None
    results: Path | None = None
    precision: str = "fp32"
    fused: bool = False
    checkpoint: bool = False


def export_artefact(source: str, out: Path, wish: Export) -> str:
    """Write the artefact of a run, or of an artefact, into the folder `out`; say how to sample it.

    Raises:
        UserError: if the source is no artefact, `out` holds something else, or a wish cannot be
            met.
    """
    if wish.precision not in PRECISIONS:
        raise UserError(f"--precision is {wish.precision!r}; use {', '.join(PRECISIONS)}")
    check_out(out)
    contract, weights = read_artefact(source)
    artefact = _artefact(source, contract, weights, wish)
    family = None
    if wish.fused or wish.checkpoint or wish.base:  # --base is looked at before it is believed
        family = load_base(contract, source, wish.base)

    def fill(beside: Path) -> None:
        artefact.write(beside)
        if family is not None:
            _write_fused(beside, artefact, family, weights, wish)

    write_folder(out, fill)
    return f"wrote {out}: {usage_hint(contract)}"


def push_artefact(
    source: str, repo: str, *, public: bool, fused: bool, dry_run: bool
) -> tuple[str, str]:
    """Return what goes, as a list with sizes, and what was done with it."""
    parcel = Parcel.of(source, fused)
    if dry_run:
        return parcel.listing(), f"dry run: nothing was uploaded to {repo}"
    kind = "public" if public else "private"
    return parcel.listing(), f"uploaded to {upload(parcel, repo, public)} ({kind})"


def base_license(base: str) -> str | None:
    """Return the license that the base model's own card names, if it can be read."""
    if base == "bundled":
        return BUNDLED_LICENSE
    card = Path(base) / "README.md"
    if not card.is_file() and not on_the_hub(base):
        return None
    try:
        return ModelCard.load(card if card.is_file() else base).data.license
    except (OSError, ValueError):  # offline, or no card: it is not guessed
        return None


def check_out(out: Path) -> None:
    """Refuse a folder that cannot be written to, or in which an export would replace other things.

    Raises:
        UserError: naming a file that is no part of an artefact.
    """
    check_writable(out.parent)
    if not out.exists():
        return
    known: set[str] = set()
    if (out / CONTRACT_FILE).is_file():
        known = {*read_contract(out).files, CONTRACT_FILE, CARD_FILE}
    files = (p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    if strangers := sorted(f for f in files if f not in known and not f.startswith("fused/")):
        raise UserError(f"{out} holds {strangers[0]}, which is no part of an artefact; choose "
                        "another folder")  # fmt: skip


def _artefact(
    source: str, contract: Contract, weights: Mapping[str, Tensor], wish: Export
) -> Artefact:
    """Gather what is known of a student, and what was asked for."""
    run, folder, old = Path(source), open_folder(source), _old_name(contract)
    if wish.base:
        contract = replace(contract, base={**contract.base, "id": wish.base, "revision": None})
    results = load(wish.results) if wish.results else None
    shown_before = folder / f"{old}.png"
    return Artefact(
        name=wish.name or old or name_from(run),
        contract=without_paths(contract),
        weights=halved(weights, PRECISIONS[wish.precision]),
        network_config=_network_config(contract, folder),
        preview=last_preview(run) or (shown_before.read_bytes() if shown_before.exists() else None),
        card=Card(
            license=wish.license or base_license(contract.base["id"]),
            settings=_settings(run),
            figures=_figures(results, wish.results, contract),
            measured_by=results.command if results else "",
        ),
    )


def _write_fused(
    folder: Path,
    artefact: Artefact,
    family: ModelFamily,
    weights: Mapping[str, Tensor],
    wish: Export,
) -> None:
    network, dtype = student_network(family, artefact.contract, weights), PRECISIONS[wish.precision]
    if wish.checkpoint:
        path = folder / "fused" / f"{artefact.name}-fused.safetensors"
        save_checkpoint(path, family, network, artefact.header.modelspec(), dtype)
    if wish.fused:
        config = scheduler_config(artefact.contract)
        save_folder(folder / FUSED_FOLDER, family, network.to(dtype), config)


def _old_name(contract: Contract) -> str | None:
    """Return the name that the files of an artefact have already: that of A1111's sidecar."""
    files = contract.files
    stems = (name.removesuffix(".json") for name in files if name.endswith(".json"))
    return next((stem for stem in stems if f"{stem}.safetensors" in files), None)


def _network_config(contract: Contract, folder: Path) -> dict[str, Any] | None:
    if contract.adapter.get("preset") != "full":
        return None
    return json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))


def _settings(run: Path) -> str | None:
    path = run / "config.toml"
    return to_toml(without_own_paths(load_config(path))) if path.is_file() else None


def _figures(results: Results | None, path: Path | None, contract: Contract) -> tuple[Figures, ...]:
    """Return the rows of a results.json that are of this student, or of its teacher.

    Raises:
        UserError: if none is of this student.
    """
    if results is None:
        return ()
    name, seed = contract.method["name"], contract.train.get("seed")
    own = [row for row in results.rows if row.method == name and row.seed in (None, seed)]
    if not own:
        raise UserError(f"{path} has no row of a {name} student of seed {seed}; evaluate it first")
    teacher = [row for row in results.rows if row.method == "teacher"]
    return tuple(Figures(row.source, row.calls, _numbers(row)) for row in [*teacher, *own])


def _numbers(row: Row) -> dict[str, str]:
    return {
        capital(metric_title(name)): f"{shown(name, m.value)} [{shown_range(name, m)}], n {m.n:,}"
        for name, m in row.metrics.items()
    }

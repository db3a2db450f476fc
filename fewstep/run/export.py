"""`fewstep export` and `fewstep push`: a run leaves the house."""

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
from fewstep.evaluation.results import Row, load
from fewstep.files import check_writable, write_folder
from fewstep.models.base import ModelFamily
from fewstep.models.saving import save_checkpoint, save_folder
from fewstep.publishing.artefact import Artefact, halved, name_from
from fewstep.publishing.card import Card, Figures, on_the_hub
from fewstep.publishing.hub import Parcel, upload
from fewstep.publishing.readers import FUSED_FOLDER, usage_hint
from fewstep.run.artefact import last_preview, without_own_paths, without_paths
from fewstep.sampling.artefact import load_base, open_folder, read_artefact, student_network
from fewstep.sampling.contract import CONTRACT_FILE, LORA_FILE, Contract
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
    if out.exists() and any(out.iterdir()) and not (out / CONTRACT_FILE).is_file():
        raise UserError(f"{out} holds something else than an artefact; choose another folder")
    run = Path(source)
    contract, weights = read_artefact(source)
    dtype = PRECISIONS[wish.precision]
    needs_base = wish.fused or wish.checkpoint or wish.base
    family = load_base(contract, source, wish.base) if needs_base else None
    if wish.base:
        contract = replace(contract, base={**contract.base, "id": wish.base, "revision": None})
    artefact = Artefact(
        name=wish.name or _old_name(contract) or name_from(run),
        contract=without_paths(contract),
        weights=halved(weights, dtype),
        network_config=_network_config(contract, open_folder(source)),
        preview=last_preview(run),
        card=Card(
            license=wish.license or base_license(contract.base["id"]),
            settings=_settings(run),
            figures=_figures(wish.results, contract),
            measured_by=load(wish.results).command if wish.results else "",
        ),
    )
    check_writable(out.parent)

    def fill(beside: Path) -> None:
        artefact.write(beside)
        if family is not None:
            _write_fused(beside, artefact, family, weights, wish, dtype)

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


def _write_fused(
    folder: Path,
    artefact: Artefact,
    family: ModelFamily,
    weights: Mapping[str, Tensor],
    wish: Export,
    dtype: torch.dtype,
) -> None:
    network = student_network(family, artefact.contract, weights)
    if wish.checkpoint:
        header = {k: v for k, v in artefact.header.items() if k.startswith("modelspec.")}
        header = {k: v.removesuffix("/lora") for k, v in header.items()}
        path = folder / "fused" / f"{artefact.name}-fused.safetensors"
        save_checkpoint(path, family, network, header, dtype)
    if wish.fused:
        config = scheduler_config(artefact.contract)
        save_folder(folder / FUSED_FOLDER, family, network.to(dtype), config)


def _old_name(contract: Contract) -> str | None:
    """Return the name that the files of an artefact have already."""
    own = {Path(name).stem for name in contract.files if name.endswith(".json") and "/" not in name}
    return next((n for n in sorted(own) if f"{n}.safetensors" in contract.files
                 and n not in ("adapter_model", Path(LORA_FILE).stem)), None)  # fmt: skip


def _network_config(contract: Contract, folder: Path) -> dict[str, Any] | None:
    if contract.adapter.get("preset") != "full":
        return None
    return json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))


def _settings(run: Path) -> str | None:
    path = run / "config.toml"
    return to_toml(without_own_paths(load_config(path))) if path.is_file() else None


def _figures(path: Path | None, contract: Contract) -> tuple[Figures, ...]:
    """Return the rows of a results.json that are of this student, or of its teacher.

    Raises:
        UserError: if none is of this student.
    """
    if path is None:
        return ()
    name, seed = contract.method["name"], contract.train.get("seed")
    rows = load(path).rows
    own = [row for row in rows if row.method == name and row.seed in (None, seed)]
    if not own:
        raise UserError(f"{path} has no row of a {name} student of seed {seed}; evaluate it first")
    teacher = [row for row in rows if row.method == "teacher"]
    return tuple(Figures(row.source, row.calls, _numbers(row)) for row in [*teacher, *own])


def _numbers(row: Row) -> dict[str, str]:
    return {
        capital(metric_title(name)): f"{shown(name, m.value)} [{shown_range(name, m)}], n {m.n:,}"
        for name, m in row.metrics.items()
    }

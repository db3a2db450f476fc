"""`fewstep export` and `fewstep push`: a run leaves the house."""

# of libraries without types
# pyright: reportAttributeAccessIssue=false

import json
from collections.abc import Callable, Mapping
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
from fewstep.export.card import Card, Figures
from fewstep.export.hub import Parcel, check_repo, upload
from fewstep.export.names import CARD_FILE, name_from, name_of
from fewstep.export.public import last_preview, without_own_paths, without_paths
from fewstep.export.recipes import usage_hint
from fewstep.export.whole_model import write_checkpoint, write_whole_model
from fewstep.export.write import FULL_CONFIG, Artefact, halved
from fewstep.files import check_writable, write_folder
from fewstep.models.base import ModelFamily
from fewstep.student.contract import CONTRACT_FILE, Contract
from fewstep.student.integrity import check_files, checked
from fewstep.student.load import (
    load_base,
    read_artefact,
    read_contract,
    student_network,
)
from fewstep.student.locate import on_the_hub, open_folder, public_name

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
    dtype = PRECISIONS[wish.precision]
    check_out(out)
    contract, weights = read_artefact(source)
    check_files(open_folder(source), contract)
    artefact = _artefact(source, contract, weights, wish)
    family = None
    if wish.fused or wish.checkpoint or wish.base:  # --base is looked at before it is believed
        family = load_base(contract, source, wish.base)
        artefact = replace(artefact, contract=_on_base(artefact.contract, wish.base, family))

    def add(beside: Path) -> None:
        if family is None:
            return
        network = student_network(family, contract, weights)
        if wish.checkpoint:
            write_checkpoint(beside, artefact, family, network, dtype)
        if wish.fused:
            write_whole_model(beside, artefact.contract, family, network.to(dtype))

    write_folder(out, lambda beside: artefact.write(beside, add))
    return f"wrote {out}: {usage_hint(contract)}"


def push_artefact(
    source: str, repo: str, *, public: bool, fused: bool, dry_run: bool, say: Callable[[str], None]
) -> str:
    """Say what goes, as a list with sizes, upload it and return what was done with it."""
    check_repo(repo)
    parcel = Parcel.of(source, fused)
    say(parcel.listing())
    if dry_run:
        return f"dry run: nothing was uploaded to {repo}"
    kind = "public" if public else "private"
    return f"uploaded to {upload(parcel, repo, public)} ({kind})"


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
    if strangers := sorted(file for file in files if file not in known):
        raise UserError(f"{out} holds {strangers[0]}, which is no part of an artefact; choose "
                        "another folder")  # fmt: skip


def _artefact(
    source: str, contract: Contract, weights: Mapping[str, Tensor], wish: Export
) -> Artefact:
    """Gather what is known of a student, and what was asked for."""
    run, folder, old = Path(source), open_folder(source), name_of(contract.files)
    results = load(wish.results) if wish.results else None
    shown_before = folder / f"{old}.png"
    return Artefact(
        name=wish.name or old or name_from(run),
        contract=without_paths(contract),
        weights=halved(weights, PRECISIONS[wish.precision]),
        network_config=_network_config(contract, folder),
        preview=last_preview(run) or (shown_before.read_bytes() if shown_before.exists() else None),
        card=Card(
            license=wish.license or base_license(wish.base or contract.base["id"]),
            settings=_settings(run),
            figures=_figures(results, wish.results, contract),
            measured_by=" ".join(map(public_name, results.command.split())) if results else "",
        ),
    )


def _on_base(contract: Contract, base: str | None, family: ModelFamily) -> Contract:
    """Name another copy of the base model, which was looked at, and the commit that it is."""
    if base is None:
        return contract
    named = {"id": base, "revision": family.revision, "variant": None, "config": None}
    return replace(contract, base={**contract.base, **named})


def _network_config(contract: Contract, folder: Path) -> dict[str, Any] | None:
    if contract.adapter.get("preset") != "full":
        return None
    return json.loads(checked(folder, FULL_CONFIG, contract).read_text(encoding="utf-8"))


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
    return tuple(
        Figures(public_name(row.source), row.calls, _numbers(row)) for row in [*teacher, *own]
    )


def _numbers(row: Row) -> dict[str, str]:
    return {
        capital(metric_title(name)): f"{shown(name, m.value)} [{shown_range(name, m)}], n {m.n:,}"
        for name, m in row.metrics.items()
    }

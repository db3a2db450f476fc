"""`fewstep export`: from a run to the files that are shared."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import ModelCard
from torch import Tensor

from fewstep.config import load_config, to_toml
from fewstep.console import next_command
from fewstep.errors import UserError
from fewstep.evaluation.results import Results, load
from fewstep.export.artefact import CARD_FILE, Artefact, is_whole_network, name_from, name_of
from fewstep.export.hub import missing_options
from fewstep.export.openvino import write_openvino
from fewstep.export.programs import check_names, check_programs
from fewstep.export.programs_run import sources_line
from fewstep.export.public import last_preview, without_own_paths, without_paths
from fewstep.export.sampling_guides import usage_hint
from fewstep.export.write import (
    FULL_CONFIG,
    cast_weights,
    write_checkpoint,
    write_contract,
    write_weights,
    write_whole_model,
)
from fewstep.files import check_writable, write_folder
from fewstep.models.hub import hub_file, on_the_hub
from fewstep.models.openvino import library
from fewstep.models.precision import DTYPES
from fewstep.models.tiny_decoder import TINY_FOLDER
from fewstep.student.contract import CONTRACT_FILE, Contract
from fewstep.student.load import (
    artefact_folder,
    check_files,
    checked,
    own_decoder,
    public_name,
    read_artefact,
    read_contract,
)
from fewstep.student.networks import load_base, student_network


@dataclass(frozen=True)
class ExportOptions:
    """The options of `fewstep export`; see its --help."""

    name: str | None = None
    base: str | None = None
    license: str | None = None
    results: Path | None = None
    precision: str = "fp32"
    fused: bool = False
    checkpoint: bool = False
    openvino: bool = False
    int8: bool = False
    check: Sequence[str] = ()


def export_artefact(source: str, out: Path, options: ExportOptions) -> str:
    """Write the artefact of a run, or of an artefact, into `out`; return how to use and share it.

    Raises:
        UserError: if the source is no artefact, `out` holds other files, an option is wrong, or a
            program that was to be checked reads something else.
    """
    if options.precision not in DTYPES:
        raise UserError(f"--precision is {options.precision!r}; use {', '.join(DTYPES)}")
    dtype = DTYPES[options.precision]
    _check_openvino(options)
    check_out(out)
    contract, weights = read_artefact(source)
    check_files(artefact_folder(source), contract)
    check_names(options.check, contract, options.fused)
    artefact = _artefact(source, contract, weights, options)
    family = None  # a base is checked before it is named
    is_merged = options.fused or options.checkpoint or options.openvino
    if is_merged or options.base or options.check:
        family = load_base(contract, source, options.base)
    if public := options.base or contract.base.get("hub_id"):
        revision = family.revision if family and options.base else None
        artefact = artefact.of_base(public, revision)

    def write(folder: Path) -> None:
        write_weights(folder, artefact)
        if family and is_merged:
            network = student_network(family, contract, weights, in_place=not options.check)
            if options.openvino:
                half, int8 = options.precision == "fp16", options.int8
                write_openvino(folder, artefact.contract, family, network, half=half, int8=int8)
            if options.checkpoint:
                write_checkpoint(folder, artefact, family, network, dtype)
            if options.fused:
                write_whole_model(folder, artefact.contract, family, network, dtype)
        if decoder := own_decoder(source):
            shutil.copytree(decoder, folder / TINY_FOLDER)
        write_contract(folder, artefact)

    write_folder(out, write)
    readings = check_programs(out, options.check, family) if family and options.check else []
    done = f"wrote {out}: {usage_hint(contract)}; {_share_next(out, artefact)}"
    return "\n".join([*readings, sources_line(contract), done])


def _check_openvino(options: ExportOptions) -> None:
    """Refuse options that do not go together, and --openvino where it is not installed."""
    if options.int8 and not options.openvino:
        raise UserError("--int8 is for the files of --openvino: add it")
    if options.openvino:
        library()
        if options.precision == "bf16":
            raise UserError(
                "--openvino writes weights in fp32 or fp16, and --precision is 'bf16'; leave it "
                "out, and choose bf16 in sampling: fewstep sample --precision bf16"
            )


def _share_next(out: Path, artefact: Artefact) -> str:
    """Return the command that shares an export, or what it lacks for that."""
    if lacking := missing_options(artefact.contract, artefact.license):
        return f"to push it, export it again with {lacking}"
    return next_command("push", out, "you/name", "--dry-run")


def base_license(base: str) -> str | None:
    """Return the license that the base model's own card names, if it can be read."""
    if base == "bundled":
        return "apache-2.0"
    card = Path(base) / "README.md"
    if not card.is_file() and not on_the_hub(base):
        return None
    try:
        return ModelCard.load(card if card.is_file() else hub_file(base, card.name)).data.license
    except (OSError, ValueError):  # offline, or no card: it is not guessed
        return None


def _license_of(contract: Contract, options: ExportOptions) -> str | None:
    """Return the license in the card of the base model: of the id to write, or of the copy here."""
    names = (options.base, contract.base["id"], contract.base.get("hub_id"))
    return next(filter(None, (base_license(name) for name in names if name)), None)


def check_out(out: Path) -> None:
    """Refuse a folder that cannot be written to, or has files that an export would delete.

    Raises:
        UserError: naming a file that is no part of an artefact.
    """
    check_writable(out.parent)
    if out.is_file():
        raise UserError(f"--out is {out}, which is a file; name a folder")
    own: set[str] = set()
    if (out / CONTRACT_FILE).is_file():
        own = {*read_contract(out).files, CONTRACT_FILE, CARD_FILE}
    files = (p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    if others := sorted(file for file in files if file not in own):
        raise UserError(
            f"{out} holds {others[0]}, which is no part of an artefact; choose another folder"
        )


def _artefact(
    source: str, contract: Contract, weights: Mapping[str, Tensor], options: ExportOptions
) -> Artefact:
    """Combine what the source holds with the options."""
    run, folder, old_name = Path(source), artefact_folder(source), name_of(contract.files)
    preview, network_config = folder / f"{old_name}.png", None
    if is_whole_network(contract):
        path = checked(folder, FULL_CONFIG, contract)
        network_config = json.loads(path.read_text(encoding="utf-8"))
    config = run / "config.toml"
    return Artefact(
        name=options.name or old_name or name_from(run),
        contract=without_paths(contract),
        weights=cast_weights(weights, DTYPES[options.precision]),
        network_config=network_config,
        preview=last_preview(run) or (preview.read_bytes() if preview.exists() else None),
        license=options.license or _license_of(contract, options),
        settings=to_toml(without_own_paths(load_config(config))) if config.is_file() else None,
        results=_results_of(options.results, contract) if options.results else None,
    )


def _results_of(path: Path, contract: Contract) -> Results:
    """Return of a results.json the rows of this student and its teacher, without paths.

    Raises:
        UserError: if none is of this student.
    """
    results, name, seed = load(path), contract.method["name"], contract.train.get("seed")
    own = [row for row in results.rows if row.method == name and row.seed in (None, seed)]
    if not own:
        raise UserError(f"{path} has no row of a {name} student of seed {seed}; evaluate it first")
    teacher = [row for row in results.rows if row.method == "teacher"]
    rows = tuple(replace(row, source=public_name(row.source)) for row in [*teacher, *own])
    command = " ".join(map(public_name, results.command.split()))
    return replace(results, command=command, rows=rows)

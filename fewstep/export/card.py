"""The model card: what a student is, how to sample it, how good it was measured to be."""

from collections.abc import Iterable, Sequence

from huggingface_hub import ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from fewstep.export.artefact import FUSED_FOLDER, Artefact, is_whole_network
from fewstep.export.sampling_guides import Guide, guidance, sampling_guides
from fewstep.methods import METHODS, method_title
from fewstep.student.contract import Contract
from fewstep.student.locate import on_the_hub, public_name

TAGS = ["text-to-image", "diffusers", "stable-diffusion", "consistency-distillation"]
TEMPLATES = Environment(
    loader=PackageLoader("fewstep", "export"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # Markdown
)


def write_card(artefact: Artefact) -> str:
    """Return the README.md of an artefact."""
    contract, base = artefact.contract, artefact.contract.base
    preview = f"{artefact.name}.png" if artefact.preview else None
    return TEMPLATES.get_template("card.md.jinja").render(
        artefact=artefact,
        contract=contract,
        front_matter=_front_matter(artefact, preview),
        preview=preview,
        base=public_name(base.get("id", "BASE")),
        fingerprint=str(base.get("fingerprint"))[:16],
        method=method_title(contract.method["name"], full=True),
        has_teacher=getattr(METHODS.get(contract.method["name"]), "has_teacher", True),
        steps=contract.default_num_steps,
        known_steps=sorted(map(int, contract.grid.sampling_timesteps)),
        jump_targets=["clean data" if end < 0 else end for end in contract.grid.boundaries],
        guidance=guidance(contract),
        guidance_scale=f"{contract.guidance_scale:g}",
        guides=guide_table(contract, artefact.name),
        is_whole=is_whole_network(contract),
        fused_folder=FUSED_FOLDER.rstrip("/"),
        measurements=_measurement_table(artefact),
    )


def guide_table(contract: Contract, name: str) -> str:
    """Return how each program samples the student, as a Markdown table."""
    return _table(Guide._fields, sampling_guides(contract, name))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def _measurement_table(artefact: Artefact) -> str:
    rows = artefact.measurements
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    return _table(
        ["", "network calls", *names],
        [[r.source, str(r.num_evaluations), *(r.metrics.get(n, "") for n in names)] for r in rows],
    )


def _front_matter(artefact: Artefact, preview: str | None) -> str:
    """Return the card's metadata as YAML; a base model that only this machine has stays unnamed."""
    base = artefact.contract.base.get("id", "")
    is_whole, is_public = is_whole_network(artefact.contract), on_the_hub(base)
    data = ModelCardData(
        base_model=base if is_public else None,
        base_model_relation=("finetune" if is_whole else "adapter") if is_public else None,
        library_name="diffusers",
        license=artefact.license,
        pipeline_tag="text-to-image",
        tags=TAGS if is_whole else [*TAGS, "lora"],
        widget=[{"text": "teacher and student", "output": {"url": preview}}] if preview else None,
    )
    return data.to_yaml()

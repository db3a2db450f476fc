"""The model card: what a student is, how to sample it, how good it was measured to be."""

from huggingface_hub import ModelCardData

from fewstep.evaluation.intervals import SMALLEST_N
from fewstep.evaluation.labels import capital, metric_title, shown, shown_range
from fewstep.evaluation.results import Results, metric_names
from fewstep.export.artefact import Artefact, is_whole_network
from fewstep.export.sampling_guides import TEMPLATES, guidance, guide_table, prompt_note
from fewstep.methods import METHODS, method_title
from fewstep.models.hub import on_the_hub
from fewstep.models.tiny_decoder import TINY_FOLDER
from fewstep.student.load import public_name

TAGS = ["text-to-image", "diffusers", "stable-diffusion", "consistency-distillation"]


def write_card(artefact: Artefact) -> str:
    """Return the README.md of an artefact."""
    contract, method = artefact.contract, artefact.contract.method["name"]
    preview = f"{artefact.name}.png" if artefact.preview else None
    return TEMPLATES.get_template("card.md.jinja").render(
        artefact=artefact,
        contract=contract,
        front_matter=_front_matter(artefact, preview),
        preview=preview,
        base=public_name(contract.base.get("id", "BASE")),
        whole=is_whole_network(contract),
        method_title=method_title(method, full=True),
        learns_from_teacher=getattr(METHODS.get(method), "has_teacher", True),
        steps=contract.default_num_steps,
        known_steps=list(contract.sampling_timesteps),
        guidance=guidance(contract),
        guidance_scale=f"{contract.guidance_scale:g}",
        guide_table=guide_table(contract, artefact.name),
        prompt_note=prompt_note(contract),
        smallest_n=SMALLEST_N,
        tiny_decoder=f"{TINY_FOLDER}/config.json" in contract.files,
        results_table=_results_table(artefact.results) if artefact.results else "",
    )


def _front_matter(artefact: Artefact, preview: str | None) -> str:
    """Return the card's metadata as YAML; a base model on this machine alone stays unnamed."""
    base, whole = artefact.contract.base.get("id", ""), is_whole_network(artefact.contract)
    data = ModelCardData(
        base_model=base if on_the_hub(base) else None,
        base_model_relation=("finetune" if whole else "adapter") if on_the_hub(base) else None,
        library_name="diffusers",
        license=artefact.license,
        pipeline_tag="text-to-image",
        tags=TAGS if whole else [*TAGS, "lora"],
        widget=[{"text": "teacher and student", "output": {"url": preview}}] if preview else None,
    )
    return data.to_yaml()


def _results_table(results: Results) -> str:
    """Return the measured metrics with their intervals in Markdown, a row for each model."""
    metrics = metric_names(results.rows)
    head = ["", "network calls", *(capital(metric_title(name)) for name in metrics)]
    lines = [head, ["---"] * len(head)]
    for row in results.rows:
        texts = {}
        for name, m in row.metrics.items():
            ends = f" [{shown_range(name, m)}]" if m.ends else ""
            texts[name] = f"{shown(name, m.value)}{ends}, n {m.n:,}"
        lines.append([row.source, str(row.calls), *(texts.get(name, "") for name in metrics)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
